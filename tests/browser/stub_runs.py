"""Runs over a library and the archive, as the stub of the service answers them: one file is resized at each poll."""

# ruff: noqa: E501 (figures in rows)
from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from typing import Any

from tests.browser.stub_images import effect_record

PRESET_SHARES = {"high": 0.45, "medium": 0.25, "low": 0.15}
FOLDER = "/data/Resize LoRA archive"
FINAL = ("resized", "left", "failed", "restored", "purged")


class StubError(Exception):
    """An error of the protocol."""

    def __init__(self, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.more = more


class StubRuns:
    """The part of the stub that is about runs. Settings of a test: `plan_left` (name -> reason), `run_fails` (names),
    `full_disk` (a run pauses before this name), `archive_problem` (text), `recovered` (texts), `weak_prompts`, `unreached` (names, of a target by images)."""

    files: dict[str, dict[str, Any]]
    jobs: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    library_revision: int
    _job: Callable[..., str]
    _file: Callable[[str], dict[str, Any]]

    def reset_runs(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.entries: dict[str, dict[str, Any]] = {}

    # For the tests themselves

    def do_interrupt(self, run: str) -> dict[str, Any]:
        """The server ends while a run is at work."""
        self._end_job(self.runs[run])
        self.runs[run]["state"] = "interrupted"
        return {}

    # Estimates and plans

    def do_estimate(self, names: list[str] | None = None) -> dict[str, Any]:
        wanted = [self._file(name) for name in names or self.files]

        def work() -> dict[str, Any]:
            new = [one for one in wanted if one["predicted"] is None and not one["problem"]]
            for one in new:
                one["predicted"], one["estimated"] = self._sizes(one), True
            self.library_revision += 1
            broken = sum(bool(one["problem"]) for one in wanted)
            return {"files": len(new), "known": len(wanted) - len(new) - broken, "failed": broken}

        return {"job": self._job("estimate", "Estimate sizes", "", work, (1, len(wanted)))}

    def _sizes(self, source: dict[str, Any]) -> dict[str, int]:
        scale = 3.8 if source["name"].startswith("flat") else 1.0
        return {preset: int(source["bytes"] * min(1.0, share * scale)) for preset, share in PRESET_SHARES.items()}

    def do_shrink_plan(
        self,
        names: list[str] | None = None,
        recipe: str = "",
        target: Any = None,
        options: Any = None,
        again: bool = False,
        fit: bool = False,
    ) -> dict[str, Any]:
        rows = [self._row(self.files[name], target or {}, again) for name in names or self.files if name in self.files]
        return {
            "rows": rows, "recipe": recipe or (self._recipe(target) if target else None), "pace": self.settings.get("pace"),
            "image_pace": self.settings.get("image_pace"),
            "unknown": [name for name in names or () if name not in self.files],
            "archive": {"folder": self._folder(), "free": self.settings.get("free", shutil.disk_usage(".").free),
                        "same_disk": self.settings.get("same_disk", True), "problem": self.settings.get("archive_problem", "")},
        }  # fmt: skip

    def _recipe(self, target: dict[str, Any]) -> str:
        """Return the recipe of a target; `StubService`, which has this mixin, knows it."""
        raise NotImplementedError

    def _row(self, source: dict[str, Any], target: dict[str, Any], again: bool) -> dict[str, Any]:
        left = self._left(source, again)
        sizes = source["predicted"]
        after: int | None = (sizes or {}).get(target.get("preset"))
        message = source["problem"] or ("" if left is None else f"{source['name']}: {left}.")
        entry = self.entries.get(source["archived"] or "")
        return {
            "name": source["name"], "folder": source["folder"], "family": source["family"],
            "bytes": entry["bytes"] if entry else source["bytes"], "bytes_now": source["bytes"],
            "predicted": sizes, "after": after, "left": left, "message": message,
        }  # fmt: skip

    def _left(self, source: dict[str, Any], again: bool) -> str | None:
        found: str | None = self.settings.get("plan_left", {}).get(source["name"])
        if found is None and source["problem"]:
            found = "broken"
        if found is None and not again and (source["ours"] or source["archived"]):
            found = "resized"
        return found

    # Runs

    def do_shrink(
        self,
        names: list[str] | None = None,
        recipe: str = "",
        target: Any = None,
        options: Any = None,
        again: bool = False,
        least_gain: float = 10.0,
        floor: float | None = None,
        excluded_folders: list[str] | None = None,
        excluded_families: list[str] | None = None,
        originals: str = "archive",
        confirm: bool = False,
        settings: Any = None,
        seeds: int = 4,
        fit: bool = False,
    ) -> dict[str, Any]:
        effect = (target or {}).get("effect")
        target = {"retention": 1.0} if effect else target
        if originals == "none" and not confirm:
            raise StubError("confirm", "The originals will not be kept. Confirm it.")
        if originals == "archive" and self.settings.get("archive_problem"):
            raise StubError("output", self.settings["archive_problem"])
        run = secrets.token_hex(8)
        rows = [self._row(self.files[name], target or {}, again) for name in names or self.files if name in self.files]
        limits = {"least_gain": least_gain, "folders": excluded_folders or [], "families": excluded_families or []}
        self.items[run] = [self._item(row, limits) for row in rows]
        self.runs[run] = {
            "run": run, "began": time.time(), "ended": None, "state": "running", "message": "", "job": None,
            "recipe": recipe or self._recipe(target), "originals": originals, "seconds_left": None, "effect": effect,
            "fit": fit,
        }  # fmt: skip
        return {"run": run, "job": self._start(run)}

    def _item(self, row: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
        reason, message = row["left"], row["message"]
        if reason is None and any((row["folder"] + "/").startswith(one + "/") for one in limits["folders"]):
            reason, message = "folder", "Its folder is excluded."
        if reason is None and row["family"] in limits["families"]:
            reason, message = "family", "Its family is excluded."
        return {
            "name": row["name"], "folder": row["folder"], "family": row["family"], "state": "left" if reason else "waiting",
            "reason": reason, "message": message, "bytes_before": row["bytes"], "bytes_after": None, "retention": None,
            "notes": [], "entry": None, "seconds": 0.0, "effect": None, "least_gain": limits["least_gain"],
        }  # fmt: skip

    def keep_effect(self, entry: str, effect: dict[str, Any]) -> None:
        """A comparison of an archived original had a figure."""
        for item in self.items[self.entries[entry]["run"]]:
            if item["entry"] == entry:
                item["effect"] = effect

    def _start(self, run: str) -> str:
        waiting = [item for item in self.items[run] if item["state"] == "waiting"]
        title = f"Shrink {len(self.items[run])} LoRAs"
        files = len(self.items[run])
        job = self._job("shrink", title, waiting[0]["name"] if waiting else "", lambda: self._run(run), (1, files))
        self.jobs[job]["run"], self.runs[run]["job"] = run, job
        return job

    def step_run(self, job: dict[str, Any]) -> bool:
        """Resize the next file of a run; return whether it has ended."""
        run = self.runs[job["run"]]
        items = self.items[run["run"]]
        if run["effect"] and job["done"] < 2:  # two images of each LoRA, as two polls
            job["stage"], job["done"], job["total"] = "image", job["done"] + 1, 23
            return False
        job["done"] = 0
        item = next((item for item in items if item["state"] == "waiting"), None)
        if item is not None and item["name"] == self.settings.get("full_disk"):
            run["state"], run["message"] = (
                "paused",
                "The disk is full: 12 MB are free, 40 MB are needed. Free some, then continue.",
            )
            run["job"] = None
            return True
        if item is not None:
            self._resize(run, item)
        finished = [item for item in items if item["state"] in FINAL]
        job["file"], job["name"] = min(len(finished) + 1, len(items)), item["name"] if item else ""
        job["share"] = len(finished) / max(1, len(items))
        if len(finished) < len(items):
            return False
        run["state"], run["ended"], run["job"] = "done", time.time(), None
        return True

    def _resize(self, run: dict[str, Any], item: dict[str, Any]) -> None:
        source = self.files[item["name"]]
        if item["name"] in self.settings.get("run_fails", ()):
            item.update(state="failed", reason="error", message=f"{item['name']}: a layer has NaN.")
            return
        after = self._sizes(source)["medium"]
        item.update(bytes_after=after, retention=0.92, seconds=1.5)
        if (1 - after / source["bytes"]) * 100 < item["least_gain"]:
            item.update(state="left", reason="gain", message="It would become smaller by less than the limit.")
            return
        if run["effect"] and item["name"] in self.settings.get("weak_prompts", ()):
            item.update(
                state="left",
                reason="weak",
                bytes_after=None,
                retention=None,
                message="The prompt hardly shows the LoRA.",
            )
            return
        if run["effect"] and item["name"] in self.settings.get("unreached", ()):
            text = "Even the largest file, 60.0 MiB, keeps only 91.2 % of the LoRA's effect (worst image 88.0 %). The target is 98 %: choose a lower one, or a wider dtype."
            item.update(state="left", reason="effect", bytes_after=None, retention=None, message=text)
            item["effect"] = effect_record(4) | {"kept": 0.912, "worst": 0.88}
            return
        if run["effect"]:
            item["effect"] = effect_record(4)
        entry = secrets.token_hex(8)
        if run["originals"] == "archive":
            self.entries[entry] = {
                "entry": entry, "run": run["run"], "name": item["name"], "folder": item["folder"], "bytes": source["bytes"],
                "bytes_after": after, "replaced": time.time(), "there": True,
            }  # fmt: skip
            source["archived"] = item["entry"] = entry
        source["bytes"], source["ours"] = after, {"source": item["name"], "recipe": run["recipe"], "there": True}
        item["state"] = "resized"
        self.library_revision += 1

    def _end_job(self, run: dict[str, Any]) -> None:
        job = self.jobs.get(run["job"] or "")
        if job is not None:
            job["state"], job["result"] = "done", self._run(run["run"])
        run["job"] = None

    def _run(self, id: str) -> dict[str, Any]:
        """The Run of the protocol."""
        run, items = self.runs[id], self.items[id]
        counts = {state: sum(item["state"] == state for item in items) for state in FINAL}
        made = [item for item in items if item["state"] == "resized"]
        before, after = sum(item["bytes_before"] for item in made), sum(item["bytes_after"] for item in made)
        kept = [one for one in self.entries.values() if one["run"] == id]
        done = sum(counts.values())
        return {
            **run, "files": len(items), "done": done, **{key: counts[key] for key in ("resized", "left", "failed", "restored")},
            "bytes_before": before, "bytes_after": after, "freed": before - after, "share": done / max(1, len(items)),
            "archived": sum(one["bytes"] for one in kept),
        }  # fmt: skip

    def _known_run(self, id: str) -> dict[str, Any]:
        if id not in self.runs:
            raise StubError("gone", f"There is no run {id!r}.")
        return self.runs[id]

    def do_runs(self) -> dict[str, Any]:
        recovered = self.settings.get("recovered", [])
        self.settings["recovered"] = []
        return {"runs": [self._run(id) for id in reversed(self.runs)], "recovered": recovered}

    def do_run(self, run: str) -> dict[str, Any]:
        self._known_run(run)
        items = [{key: value for key, value in item.items() if key != "least_gain"} for item in self.items[run]]
        return {"run": self._run(run), "items": items}

    def do_run_control(self, run: str, action: str) -> dict[str, Any]:
        found = self._known_run(run)
        allowed = {
            "pause": ("running",),
            "continue": ("paused", "interrupted"),
            "stop": ("running", "paused", "interrupted"),
        }
        if found["state"] not in allowed[action]:
            raise StubError("refused", f"The run is {found['state']}.")
        if action == "continue":
            self.settings["full_disk"] = None
            found["state"], found["message"] = "running", ""
            self._start(run)
        else:
            found["state"] = "paused" if action == "pause" else "stopped"
            found["ended"] = None if action == "pause" else time.time()
            self._end_job(found)
        return {"run": self._run(run)}

    # The archive

    def _folder(self) -> str | None:
        return None if self.settings.get("remote") else FOLDER

    def do_archive(self) -> dict[str, Any]:
        return {
            "folder": self._folder(), "entries": list(self.entries.values()), "problem": self.settings.get("archive_problem", ""),
            "bytes": sum(one["bytes"] for one in self.entries.values()),
        }  # fmt: skip

    def _chosen(self, entries: list[str] | None, run: str, names: list[str] | None, all: bool) -> list[dict[str, Any]]:
        if run:
            self._known_run(run)
        return [
            one
            for one in self.entries.values()
            if all or one["run"] == run or one["name"] in (names or ()) or one["entry"] in (entries or ())
        ]

    def do_restore_originals(
        self, entries: list[str] | None = None, run: str = "", names: list[str] | None = None, all: bool = False
    ) -> dict[str, Any]:
        chosen = self._chosen(entries, run, names, all)

        def work() -> dict[str, Any]:
            stuck = [one for one in chosen if one["name"] in self.settings.get("changed", ())]
            good = [one for one in chosen if one not in stuck]
            for one in good:
                self._put_back(one)
            refused = [
                {"name": one["name"], "message": f"{one['name']} was changed since it was replaced."} for one in stuck
            ]
            size = sum(one["bytes"] for one in good)
            return {"restored": [one["name"] for one in good], "refused": refused, "notes": [], "bytes": size}

        return {"job": self._job("restore_originals", f"Restore {len(chosen)} originals", "", work)}

    def _put_back(self, entry: dict[str, Any]) -> None:
        source = self.files[entry["name"]]
        source["bytes"], source["ours"], source["archived"] = entry["bytes"], None, None
        self._drop(entry, "restored")
        self.library_revision += 1

    def _drop(self, entry: dict[str, Any], state: str) -> None:
        del self.entries[entry["entry"]]
        for items in self.items.values():
            for item in items:
                if item["entry"] == entry["entry"]:
                    item["state"], item["entry"] = state, None

    def do_purge(
        self,
        entries: list[str] | None = None,
        run: str = "",
        older_days: int | None = None,
        all: bool = False,
        confirm: bool = False,
    ) -> dict[str, Any]:
        chosen = self._chosen(entries, run, None, all)
        if older_days is not None:
            chosen = [one for one in self.entries.values() if one["replaced"] < time.time() - older_days * 86400]
        answer = {"files": len(chosen), "bytes": sum(one["bytes"] for one in chosen), "done": confirm}
        for one in chosen if confirm else ():
            self.files[one["name"]]["archived"] = None
            self._drop(one, "purged")
        return answer
