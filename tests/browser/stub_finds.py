"""The search for the smallest file, as the stub of the service answers it: one size is tried at each poll."""

# ruff: noqa: E501 (figures in rows)
from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from tests.browser.stub_runs import StubError

LEAST, MOST = 0.02, 0.45
"""Smallest and largest size that are tried, as shares of the source."""
MOST_KEPT = 4


class StubFinds:
    """The part of the stub that is about searches. Settings of a test: `weak` (the prompt hardly shows the LoRA),
    `strength` (from 0 to 1; a small one keeps less at each size, so that a target is missed)."""

    files: dict[str, dict[str, Any]]
    jobs: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    _job: Callable[..., str]
    _file: Callable[[str], dict[str, Any]]
    _resizing: Callable[..., Callable[[], dict[str, Any]]]

    def reset_finds(self) -> None:
        self.finds: dict[str, dict[str, Any]] = {}
        """Job, or id of a search -> the search."""

    def do_find(
        self,
        target: float,
        name: str = "",
        names: list[str] | None = None,
        settings: dict[str, Any] | None = None,
        seeds: int = 4,
        options: Any = None,
        fit: bool = False,
        save: bool = False,
    ) -> dict[str, Any]:
        if not 0.5 <= target <= 0.999:
            raise StubError("request", f"target: must be a number from 0.5 to 0.999, found {target}.")
        jobs, refused = [], []
        for one in names or [name]:
            try:
                source = self._file(one)
            except StubError as error:
                if not names:
                    raise
                refused.append({"name": one, "kind": error.kind, "message": str(error)})
                continue
            find: dict[str, Any] = {
                "find": secrets.token_hex(8), "source": source, "target": target, "trials": [], "low": LEAST,
                "high": MOST, "share": MOST, "fit": fit, "save": save, "first": int((settings or {}).get("seed") or 7),
                "count": seeds, "stopped": False, "left": 6, "best": None,
            }  # fmt: skip
            job = self._job("find", f"Find the smallest {one}", one, lambda find=find: self._found(find))
            self.finds[job] = self.finds[find["find"]] = find
            jobs.append(job)
        return {"job": jobs[0] if jobs else None, "jobs": jobs, "refused": refused}

    def step_find(self, job: dict[str, Any]) -> bool:
        """Try the next size; return whether that was the last."""
        find = self.finds[job["id"]]
        total = 5 if self.settings.get("weak") else 9 + 2 * 6
        job["state"], job["stage"], job["total"] = "running", "image", total
        if self.settings.get("weak") or find["stopped"]:
            return True
        self._try(find, find["share"])
        find["left"] -= 1
        job["trial"] = find["trials"][-1]
        job["done"] = total - 2 * find["left"]
        job["share"], job["seconds_left"] = job["done"] / total, 4.0 * find["left"]
        return bool(find["left"] <= 0)

    def _try(self, find: dict[str, Any], share: float) -> None:
        error = (0.05 / share) ** 2 * 0.02 / self.settings.get("strength", 1.0)
        kept = max(0.0, 1 - error)
        accepted = kept >= find["target"]
        trial = {
            "bytes": int(share * find["source"]["bytes"]), "recipe": f"fro_lora=1,min_rank=1,size={share * 100:.4g}",
            "retention": 1 - share / 10, "kept": kept, "worst": max(0.0, 1 - 1.4 * error), "seeds": find["count"],
            "accepted": accepted, "fitted": find["fit"], "pictures": self._pictures(len(find["trials"])),
        }  # fmt: skip
        find["trials"].append(trial)
        if accepted:
            find["high"], find["best"] = share, trial
        else:
            find["low"] = share
            if share >= find["high"]:
                find["high"] = 1.0
            find["best"] = find["best"] or trial
        find["share"] = (find["low"] * find["high"]) ** 0.5

    def _pictures(self, number: int) -> list[dict[str, Any]]:
        return [
            {"id": f"{what}:{number}", "what": what, "width": 64, "height": 64}
            for what in ("original", "resized", "without")
        ]

    def _found(self, find: dict[str, Any]) -> dict[str, Any]:
        best, weak = find["best"], bool(self.settings.get("weak"))
        result = None
        if find["save"] and best is not None:
            result = self._saving(find)()
        if weak:
            text = "The prompt hardly shows the LoRA, so there is no figure. Use a prompt with its trigger words."
        elif best is None:
            text = "Stopped before a size was measured."
        else:
            text = f"{best['bytes'] / (1 << 20):.1f} MiB keeps {best['kept']:.1%} of the LoRA's effect."
        return {
            "find": find["find"], "name": find["source"]["name"], "target": find["target"], "best": best,
            "trials": find["trials"], "effect": 0.004 if weak else 0.4, "noise": 0.002, "basis": "latents", "weak": weak,
            "seeds": [find["first"] + i for i in range(find["count"])], "images": 9 + 2 * len(find["trials"]),
            "smaller": best is not None, "larger": best is not None, "text": text, "result": result,
        }  # fmt: skip

    def _kept(self, find: str) -> dict[str, Any]:
        if find not in self.finds:
            raise StubError("gone", f"Only the last {MOST_KEPT} searches are kept. Find the smallest file again.")
        return self.finds[find]

    def do_find_more(self, find: str, direction: str) -> dict[str, Any]:
        found = self._kept(find)
        name = found["source"]["name"]
        if found["best"] is not None:
            found["share"] = (
                found["best"]["bytes"] / found["source"]["bytes"] * (1.15 if direction == "larger" else 1 / 1.15)
            )
        found["left"] = 1

        def work() -> dict[str, Any]:
            found["best"] = found["trials"][-1] if found["trials"] else None
            return self._found({**found, "save": False})

        job = self._job("find", f"Find the smallest {name}", name, work)
        self.finds[job] = found
        return {"job": job}

    def do_find_stop(self, job: str) -> dict[str, Any]:
        if job not in self.finds:
            raise StubError("gone", f"There is no search {job!r}.")
        is_active = self.jobs[job]["state"] in ("queued", "running", "waits")
        self.finds[job]["stopped"] = is_active
        return {"stopped": is_active}

    def do_find_save(self, find: str) -> dict[str, Any]:
        found = self._kept(find)
        name = found["source"]["name"]
        if found["best"] is None:
            raise StubError("gone", "The search has no file that could be saved.")
        return {"job": self._job("resize", name, name, self._saving(found), recipe=found["best"]["recipe"])}

    def _saving(self, find: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        size = find["best"]["bytes"] / (1 << 20)
        return self._resizing(find["source"], find["best"]["recipe"], {"size": size})
