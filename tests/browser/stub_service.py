"""A service that answers the protocol with made-up figures, so that the page can be tested by itself.

Questions are checked with the declaration of the protocol; test_stub.py checks the answers with it. Jobs take a few
polls, and names are as awkward as those of users.
"""

# ruff: noqa: E501 (lines of script, and figures in rows)
from __future__ import annotations

import base64
import json
import math
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from lib_resize.errors import PromptError
from lib_resize.panel.faults import Fault
from lib_resize.panel.lora_warnings import TEMPLATES
from lib_resize.panel.protocol.methods import METHODS
from lib_resize.prompts.tags import parse_prompt, replaced
from tests.browser.stub_finds import StubFinds
from tests.browser.stub_images import FILE_EFFECT, FIT, PICTURES, comparison, effect_record, images_of
from tests.browser.stub_runs import StubError, StubRuns

MIB = 1 << 20
PRESETS = {
    "high": "fro_lora=1,min_rank=1,retain=0.95",
    "medium": "fro_lora=1,min_rank=1,retain=0.92",
    "low": "fro_lora=1,min_rank=1,retain=0.88",
}
RETENTION = {"high": 0.95, "medium": 0.92, "low": 0.88}
AWKWARD = 'it\'s <b>a</b> & "q" [v1] 画風'
REFERENCE = {"kind": "memory", "title": "juggernautXL_v9", "family": "SDXL", "note": ""}
DEFAULTS = {
    "preset": "medium",
    "options": {"suffix": "_{size}", "dtype": "16", "reference": "loaded", "sidecars": True},
    "card_menu": True,
    "notes": [],
}
BLOCKS = ["TE1", "TE2", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID", *(f"OUT{i:02}" for i in range(9))]


def file(name: str, mib: float, **more: Any) -> dict[str, Any]:
    """One File of `library`."""
    return {
        "name": name, "folder": "styles", "family": "SDXL", "kind": "LoRA", "rank": 32, "dtype": "F16", "layers": 986,
        "bytes": int(mib * MIB), "modified": 1763768217.0 + zlib.crc32(name.encode()) % 1000, "preview": False,
        "fits": True, "ours": None, "problem": None, "predicted": None, "estimated": False, "archived": None, "same_name": [],
        "read": True, **more,
    }  # fmt: skip


def few() -> list[dict[str, Any]]:
    """A library of each kind that the page treats in its own way."""
    return [
        file("pastry-sdxl", 217.9, preview=True),
        file("hogs", 860.0, kind="LoCon", rank=128, folder="styles/animals"),
        file("dpo", 750.9, kind="DoRA", rank=128, folder=""),
        file("snorlax_sd15", 144.1, family="SD1.5", fits=False, rank=128, dtype="F32"),
        file("flat-extracted", 93.4, rank=16),
        file("broken", 3.2, problem="broken.safetensors: the header ends early. Download the file again.", kind=None),
        file(AWKWARD, 54.8, rank=8, folder="絵/画風"),
        file("pastry-sdxl_46mb", 46.1, ours={"source": "pastry-sdxl", "recipe": PRESETS["medium"], "there": True}),
    ]


def many(count: int = 2000) -> list[dict[str, Any]]:
    """A collector's library."""
    kinds = ["LoRA", "LoCon", "DoRA"]
    return [
        file(f"style {i:04}", 20 + i * 37 % 900, kind=kinds[i % 3], rank=2 ** (i % 8), family=["SDXL", "SD1.5"][i % 2])
        | {"fits": i % 2 == 0, "folder": f"folder {i % 20}"}
        for i in range(count)
    ]


def curve(source: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of an analysis: retention over size, as trained LoRAs have it."""
    points = []
    for i in range(200):
        share = 0.02 + 0.98 * i / 199
        kept = share**0.5 if source["name"].startswith("flat") else 1 - 0.7 * math.exp(-9 * share) * (1 - share)
        most = max(1, round(source["rank"] * min(1, 2 * share)))
        points.append({
            "retention": round(kept, 6), "bytes": int(share * source["bytes"]), "ranks": [1, max(1, most // 3), most],
            "layers_gone": max(0, 20 - i), "threshold": -share,
        })  # fmt: skip
    return points


def warning(kind: str, **values: str) -> dict[str, Any]:
    """A Warning, with the words of the service."""
    template = TEMPLATES[kind]
    return {"kind": kind, "text": template.format(**values), "template": template, "values": values}


def picture(seed: int) -> str:
    """A small picture as a data URI."""
    hue = seed % 360
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512"><rect width="512" height="512" '
        f'fill="hsl({hue} 55% 45%)"/><circle cx="{180 + hue // 3}" cy="256" r="140" fill="hsl({hue + 60} 70% 75%)"/></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def png(seed: int) -> str:
    """A picture of 64 pixels, as base64."""
    rows = b"".join(b"\0" + bytes((seed, 3 * y % 256, 255 - seed)) * 64 for y in range(64))
    parts = ((b"IHDR", struct.pack(">2I5B", 64, 64, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


ACTIVE = ("queued", "running", "waits")
CHANGES = {name for name, method in METHODS.items() if method.changes}


class StubService(StubRuns, StubFinds):
    """Answers like the service of the panel. `change` (a method of its own) sets up what a test needs."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.resets = 0
        self._one_at_a_time = threading.RLock()
        self.reset()

    def reset(self, **settings: Any) -> dict[str, Any]:
        """Begins anew; settings: files ("few", "many", "none"), features, remote, reference, slow, busy;
        errors ({method: [kind, message]}), failure of a resize ([kind, message]), notes."""
        self.resets += 1
        self.settings: dict[str, Any] = {
            "files": "few",
            "features": ["prompt", "cards", "generate", "loaded_model", "xyz"],
            "slow": 3,
        }
        self.settings.update(settings)
        made: dict[str, Callable[[], list[dict[str, Any]]]] = {"few": few, "many": many, "none": list}
        self.files = {one["name"]: one for one in made[self.settings["files"]]()}
        self.session = secrets.token_hex(8)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.gone: dict[str, int] = {}
        self.pruned = 0
        self.made: dict[str, dict[str, Any]] = {}
        self.analysed: set[str] = set()
        self.revision = self.library_revision = 1
        self.reset_runs()
        self.reset_finds()
        self.heard.clear()
        return {}

    def call(self, text: str) -> str:
        """One question, one answer."""
        question, resets = json.loads(text), self.resets
        self.heard.append(question)
        answer: dict[str, Any] = {"id": question["id"]}
        try:
            self._stumble(question)
            answer["result"] = self._work(question, resets)
        except StubError as error:
            answer["error"] = {"kind": error.kind, "message": str(error), **error.more}
        except (AttributeError, TypeError) as error:
            answer["error"] = {"kind": "request", "message": f"{type(error).__name__}: {error}"}
        while question["method"] in self.settings.get("kept", ()):
            time.sleep(0.02)
        return json.dumps(answer, ensure_ascii=False)

    def _work(self, question: dict[str, Any], resets: int) -> Any:
        """A question that was asked before a reset, by the page of an earlier test, changes nothing after it."""
        with self._one_at_a_time:
            if resets != self.resets:
                raise StubError("stale", "The stub was reset.")
            return getattr(self, "do_" + question["method"])(**self._params(question))

    def _params(self, question: dict[str, Any]) -> dict[str, Any]:
        """Those that are given, after the check that the service makes."""
        given, declared = question.get("params") or {}, METHODS.get(question["method"])
        if declared is not None:
            try:
                declared.read(given)
            except Fault as fault:
                raise StubError(fault.kind, str(fault)) from fault
            given = {name: value for name, value in given.items() if value is not None}
        return dict(given)

    def _stumble(self, question: dict[str, Any]) -> None:
        """Delays and faults that a test set, and pages that are older than the server.

        What is `held` is worked on once a test lets it go, what is `kept` is answered then.
        """
        method = question["method"]
        time.sleep(self.settings.get("delays", {}).get(method, 0))
        while method in self.settings.get("held", ()):
            time.sleep(0.02)
        if method in self.settings.get("errors", {}):
            raise StubError(*self.settings["errors"][method])
        faults = self.settings.get("faults", {})
        if faults.get(method):
            faults[method] -= 1
            raise StubError("internal", "the server stumbled.")
        if method in CHANGES and question.get("session", self.session) != self.session:
            raise StubError("stale", "The server was restarted. Try again once the page has reloaded its lists.")

    # For the tests themselves

    def do_change(self, **settings: Any) -> dict[str, Any]:
        return self.reset(**settings)

    def do_set(self, **settings: Any) -> dict[str, Any]:
        self.settings.update(settings)
        return {}

    def do_restart(self) -> dict[str, Any]:
        """A new server: what was made is known, what was begun is not."""
        self.session, self.jobs, self.revision, self.library_revision = secrets.token_hex(8), {}, 1, 1
        self.analysed.clear()
        self.made = {key: one | {"earlier": True} for key, one in self.made.items()}
        return {}

    def do_drop(self, name: str) -> dict[str, Any]:
        """A file vanishes from the disk."""
        self.library_revision += 1
        self.gone[name] = self.library_revision
        del self.files[name]
        return {}

    def do_appear(self, name: str, mib: float, **more: Any) -> dict[str, Any]:
        self.library_revision += 1
        self.gone.pop(name, None)
        self.files[name] = file(name, mib, **more)
        return {}

    def do_touch(self, output: str) -> dict[str, Any]:
        """Another program writes to a file that was made."""
        for one in self.made.values():
            one["changed"] = one["changed"] or one["output"] == output
        return {}

    def do_forget_jobs(self) -> dict[str, Any]:
        """Ended jobs are kept no more: a page that asks for what changed since cannot be answered."""
        self.jobs = {key: job for key, job in self.jobs.items() if job["state"] in ACTIVE}
        self.revision += 1
        self.pruned = self.revision
        return {}

    def do_heard(self) -> list[dict[str, Any]]:
        return [one for one in self.heard if one["method"] not in ("status", "heard", "set")]

    # The protocol

    def do_hello(self) -> dict[str, Any]:
        return {
            "host": "Stub", "features": self.settings["features"], "version": "0", "device": "cpu",
            "remote": self.settings.get("remote", False), "reference": self._reference(),
            "checkpoints": ["juggernautXL_v9", "dreamshaper_8"], "presets": PRESETS, "floor": 0.88, "defaults": self.settings.get("defaults", DEFAULTS),
            "session": self.session,
            "counts": {"loras": len(self.files), "checkpoints": 2, "jobs": 0, "results": 0, "trashed": 0},
            "words": {
                "scores": dict.fromkeys(("spn_ckpt", "spn_lora", "fro_ckpt", "fro_lora", "subspace", "params"), "a norm"),
                "selections": {"size": "a size"}, "limits": {"min_rank": "a limit"}, "dtypes": ["16", "bf16"],
            },
            "archive": {key: self.do_archive()[key] for key in ("folder", "bytes")} | {"entries": len(self.entries)},
        }  # fmt: skip

    def _reference(self) -> dict[str, Any]:
        return dict(self.settings.get("reference", REFERENCE))

    def do_library(self, since: int | None = None, refresh: bool = False) -> dict[str, Any]:
        if refresh:
            self.settings["unlisted"] = False
        files = list(self.files.values()) if since is None or since < self.library_revision else []
        return {
            "files": files, "gone": [name for name, gone in self.gone.items() if since and gone > since], "roots": ["Lora"], "complete": True, "known": len(self.files),
            "total": len(self.files), "revision": self.library_revision,
        }  # fmt: skip

    def do_previews(self, names: list[str]) -> dict[str, Any]:
        return {"previews": {name: picture(zlib.crc32(name.encode())) for name in names}, "pending": []}

    def do_details(self, name: str) -> dict[str, Any]:
        self._file(name)
        known = {
            "pastry-sdxl": {
                "activation": "prbstyle", "trained_words": ["prbstyle", "a <b>cake</b>"], "description": "Cakes & tea.",
                "civitai": "https://civitai.com/models/7?modelVersionId=12", "fit": FIT, "effect": FILE_EFFECT,
            },
        }  # fmt: skip
        path = None if self.settings.get("remote") else f"/loras/{name}.safetensors"
        empty: dict[str, Any] = {"activation": "", "trained_words": [], "civitai": None, "description": ""}
        empty |= {"fit": None, "effect": None, "unreadable": []}
        return {"name": name, **empty, **known.get(name, {}), "path": path}

    def do_open_folder(self, name: str) -> dict[str, Any]:
        if self.settings.get("remote"):
            raise StubError("remote", "A folder is opened only where the page is not served to other machines.")
        return {"folder": self._file(name)["folder"]}

    def do_status(self, since: int | None = None) -> dict[str, Any]:
        active = [job for job in self.jobs.values() if job["state"] in ACTIVE]
        if active and not self.settings.get("paused"):
            self._step(active[0])
        active = [job for job in active if job["state"] in ACTIVE]
        reset = since is not None and since < self.pruned
        changed = [job for job in self.jobs.values() if reset or since is None or job["revision"] > since]
        return {
            "queue": [{k: v for k, v in job.items() if k not in ("revision", "work", "images")} for job in changed],
            "reset": reset, "revision": self.revision, "active": len(active), "busy": self.settings.get("busy"), "seconds_left": None,
            "places": {job["id"]: [place, job["seconds_left"]] for place, job in enumerate(active)},
            "library": self.library_revision, "reference": self._reference(), "session": self.session,
        }  # fmt: skip

    def _step(self, job: dict[str, Any]) -> None:
        self.revision += 1
        job["revision"] = self.revision
        if self.settings.get("busy"):
            job["state"], job["stage"] = "waits", "waiting for the current image"
            return
        if job["kind"] == "shrink":
            job["state"] = "running"
            if self.step_run(job):
                self._finish(job)
            return
        if job["kind"] == "find":
            if self.step_find(job):
                self._finish(job)
            return
        is_comparison = job["kind"] == "compare"
        total = job["images"] if is_comparison else 986
        job["state"], job["stage"], job["total"] = "running", "image" if is_comparison else "analyse", total
        job["done"] += max(1, total // self.settings["slow"])
        job["seconds_left"] = max(0.0, (total - job["done"]) / 100)
        if job["done"] >= total - (0 if is_comparison else self.settings["slow"]):
            self._finish(job)

    def _finish(self, job: dict[str, Any]) -> None:
        job["stage"], job["done"], job["total"], job["seconds_left"], job["trial"] = "", 0, 0, None, None
        try:
            job["result"], job["state"] = job["work"](), "done"
        except StubError as error:
            job["error"], job["state"] = {"kind": error.kind, "message": str(error)}, "failed"

    def _job(
        self,
        kind: str,
        title: str,
        name: str,
        work: Callable[[], Any],
        place: tuple[int, int] = (1, 1),
        recipe: str | None = None,
        batch: str = "",
    ) -> str:
        self.revision += 1
        key = secrets.token_hex(8)
        self.jobs[key] = {
            "id": key, "kind": kind, "title": title, "state": "queued", "place": 0, "stage": "", "done": 0, "total": 0,
            "file": place[0], "files": place[1], "name": name, "seconds_left": None, "result": None, "error": None,
            "batch": batch or secrets.token_hex(8), "recipe": recipe, "revision": self.revision, "work": work,
            "run": None, "share": 0.0, "trial": None,
        }  # fmt: skip
        return key

    def _file(self, name: str) -> dict[str, Any]:
        if name not in self.files:
            raise StubError("file", f"no LoRA is named {name!r} here. Refresh the list.")
        return self.files[name]

    def do_analyse(
        self, names: list[str], reference: str = "loaded", recipe: str = "", convert: str = "auto"
    ) -> dict[str, Any]:
        for name in names:
            self._file(name)

        def work() -> dict[str, Any]:
            return {"files": [self._analysed(name) for name in names], "failed": []}

        return {"job": self._job("analyse", f"Analyse {names[0]}", names[0], work, (1, len(names)))}

    def _analysed(self, name: str) -> dict[str, Any]:
        source = self._file(name)
        self.analysed.add(name)
        self.library_revision += 1
        table = curve(source)
        presets = {preset: self._preset(source, table, preset) for preset in PRESETS}
        source["predicted"] = {preset: found["bytes"] for preset, found in presets.items()}
        flat = name.startswith("flat")
        return {
            "name": name, "bytes": source["bytes"], "layers": 986, "zero": 0, "ranks": [source["rank"]] * 3,
            "table": table, "blocks": self._blocks(source, presets), "flat": flat,
            "warnings": [*([warning("flat", saved="3 %")] if flat else []), *self._ignored()], "presets": presets,
            "reference": self._reference(), "device": "cpu",
        }  # fmt: skip

    def _ignored(self) -> list[dict[str, Any]]:
        values = {"count": "264", "all": "986", "host": "SD.Next"}
        return [warning("ignored_text_encoders", **values)] if self.settings.get("ignored") else []

    def _preset(self, source: dict[str, Any], table: list[dict[str, Any]], preset: str) -> dict[str, Any]:
        point = next(point for point in table if point["retention"] >= RETENTION[preset])
        point = {key: value for key, value in point.items() if key != "threshold"}
        return {**point, "saved": 1 - point["bytes"] / source["bytes"], "recipe": PRESETS[preset]}

    def _blocks(self, source: dict[str, Any], presets: dict[str, Any]) -> dict[str, Any]:
        return {
            block: {
                "layers": 44,
                "old": float(source["rank"]),
                "kept": {key: one["ranks"][2] * (0.3 + 0.7 * abs(math.sin(i))) for key, one in presets.items()},
            }
            for i, block in enumerate(BLOCKS)
        }

    def do_spectra(self, name: str) -> dict[str, Any]:
        self._file(name)
        return {"job": self._job("spectra", name, name, lambda: self._studied(name))}

    def _studied(self, name: str) -> dict[str, Any]:
        if name.startswith("flat"):
            raise StubError("file", f"{name}: layer lora_unet_a holds NaN.")
        source, kinds = (
            self._file(name),
            [
                *(f"{kind} {part}" for kind in ("self", "cross") for part in ("Q", "K", "V", "out")),
                "feed forward",
                "projection",
            ],
        )
        names = [
            "all",
            "cross-attention",
            "self-attention",
            "high-level blocks",
            "attention K",
            "attention Q",
            "text encoders",
        ]
        rank = source["rank"]
        table = [
            [
                None
                if block.startswith("TE") and kind.startswith("cross")
                else round(1 + (rank - 1) * abs(math.sin(i + j / 3)) / 2, 2)
                for j, kind in enumerate(kinds)
            ]
            for i, block in enumerate(BLOCKS)
        ]
        return {
            "name": name, "files": 1, "blocks": BLOCKS, "types": kinds, "effective_rank": table,
            "groups": [{"name": one, "layers": 40 + i, "spectrum": [math.exp(-k / (3 + i)) for k in range(rank)],
                        "effective_rank": 5.5 + i, "top_energy": 0.4, "rank_90": 4.0, "rank_99": 9.0}
                       for i, one in enumerate(names)],
            "layers": [[0 if cell is None else 4 for cell in row] for row in table],
            "bytes": [[0 if cell is None else int(source["bytes"] / 200 * (1 + j % 3)) for j, cell in enumerate(row)] for row in table],
            "curves": [{"name": one, "points": [[int(source["bytes"] * k / 12), 1 - (0.3 + 0.05 * i) * math.exp(-k / 2) * (12 - k) / 12] for k in range(1, 13)]}
                       for i, one in enumerate(["fro_lora=1", "spn_lora=1", "fro_lora=0.9,params=0.1", "rank", "sv_ratio", "sv_fro", "sv_cumulative"])],
        }  # fmt: skip

    def do_plan(self, name: str, recipe: str = "", target: Any = None, options: Any = None) -> dict[str, Any]:
        source = self._file(name)
        if name not in self.analysed:
            raise StubError("not_analysed", f"{name} is not analysed yet.")
        point = self._point(source, recipe, target or {})
        text = recipe or self._recipe(target)
        warnings = self._ignored()
        if point["retention"] < 0.88 - 1e-9:
            warnings.append(warning("low_retention", retention="80.0 %", floor="88 %"))
        size = point["bytes"] * {"32": 2, "8": 0.5}.get((options or {}).get("dtype", "16"), 1)
        return {
            "name": name, "output": f"{name}_{size / MIB:.0f}mb", "bytes_before": source["bytes"],
            "bytes_after": int(size), "saved": 1 - size / source["bytes"], "retention": point["retention"],
            "ranks": point["ranks"], "ranks_before": [source["rank"]] * 3, "layers": 986,
            "layers_gone": point["layers_gone"], "threshold": point["threshold"], "notes": self.settings.get("notes", []), "warnings": warnings,
            "recipe": text, "reference": self._reference(),
            "blocks": {b: {"layers": 44, "old": float(source["rank"]), "kept": point["ranks"][2] * (0.4 + 0.6 * abs(math.cos(i)))}
                       for i, b in enumerate(BLOCKS)},
        }  # fmt: skip

    def _point(self, source: dict[str, Any], recipe: str, target: dict[str, Any]) -> dict[str, Any]:
        table = curve(source)
        if "size" in target:
            below = [point for point in table if point["bytes"] <= target["size"] * MIB]
            if not below:
                least = table[0]["bytes"] / MIB
                raise StubError("refused", f"{target['size']:g} MB is too small: the least is {least:.2f} MB.")
            return below[-1]
        if "rank" in target:
            return next((p for p in table if p["ranks"][2] >= target["rank"]), table[-1])
        wish = target.get("retention") or RETENTION[target.get("preset", "medium")]
        return next(point for point in table if point["retention"] >= wish)

    def _recipe(self, target: dict[str, Any]) -> str:
        if "preset" in target:
            return PRESETS[target["preset"]]
        word, value = next(iter(target.items()))
        return f"fro_lora=1,min_rank=1,{word}={value}"

    def do_check_recipe(self, text: str) -> dict[str, Any]:
        for item in text.split(","):
            if item.split("=")[0] not in ("fro_lora", "fro_ckpt", "min_rank", "retain", "size", "rank", *PRESETS):
                column = text.index(item) + 1
                message = f"recipe {text!r}, column {column}: unknown word {item.split('=')[0]!r}."
                return {"ok": False, "message": message, "column": column, "full": None, "needs_base": False}
        return {"ok": True, "message": "", "column": 0, "full": text, "needs_base": "ckpt" in text}

    def do_resize(
        self,
        names: list[str],
        recipe: str = "",
        target: Any = None,
        options: Any = None,
        again: bool = False,
        fit: Any = None,
    ) -> dict[str, Any]:
        jobs: list[str] = []
        refused: list[dict[str, Any]] = []
        same: list[dict[str, Any]] = []
        batch = secrets.token_hex(8)
        wanted = [(name, text) for name in names for text in (recipe.split(":") if recipe else [self._recipe(target)])]
        for i, (name, text) in enumerate(wanted):
            if name not in self.files:
                refused.append({"name": name, "kind": "file", "message": f"no LoRA is named {name!r} here."})
                continue
            before = None if again else self._same(name, text)
            if before:
                same.append(before)
                continue
            work = self._resizing(self._file(name), text if recipe else "", target or {}, batch)
            jobs.append(self._job("resize", f"{name}: {text}", name, work, (i + 1, len(wanted)), text, batch))
        return {"jobs": jobs, "refused": refused, "same": same}

    def _same(self, name: str, recipe: str) -> dict[str, Any] | None:
        found = {"name": name, "recipe": recipe, "job": None, "result": None}
        for job in self.jobs.values():
            if job["state"] in ACTIVE and (job["kind"], job["name"], job["recipe"]) == ("resize", name, recipe):
                return found | {"job": job["id"]}
        for one in self.made.values():
            if (one["name"], one["recipe"], one["state"]) == (name, recipe, "there"):
                return found | {"result": one["result"]}
        return None

    def _resizing(
        self, source: dict[str, Any], recipe: str, target: dict[str, Any], batch: str = ""
    ) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            if source["problem"]:
                raise StubError("file", source["problem"])
            if "failure" in self.settings:
                raise StubError(*self.settings["failure"])
            point = self._point(source, recipe, target)
            output = f"{source['name']}_{point['bytes'] / MIB:.0f}mb"
            made = file(output, point["bytes"] / MIB, ours={"source": source["name"], "recipe": "", "there": True})
            self.files[output] = made
            self.library_revision += 1
            key = secrets.token_hex(8)
            self.made[key] = {
                "result": key, "name": source["name"], "output": output, "folder": "styles",
                "bytes_before": source["bytes"], "bytes_after": point["bytes"],
                "saved": 1 - point["bytes"] / source["bytes"], "retention": point["retention"],
                "recipe": recipe or self._recipe(target), "notes": self.settings.get("notes", []), "ranks": point["ranks"],
                "layers_gone": point["layers_gone"], "sidecars": 1, "state": "there", "made": time.time(),
                "seconds": 1.0, "device": "cpu", "reference": self._reference(), "earlier": False, "changed": False,
                "batch": batch, "effect": None,
            }  # fmt: skip
            return self.made[key]

        return work

    def do_cancel(self, job: str = "", jobs: list[str] | None = None) -> dict[str, Any]:
        ended = []
        for key in jobs or [job]:
            found = self.jobs.get(key)
            if found and found["state"] in ACTIVE:
                self.revision += 1
                found |= {
                    "state": "cancelled",
                    "revision": self.revision,
                    "stage": "",
                    "done": 0,
                    "total": 0,
                    "trial": None,
                }
                ended.append({"job": key, "kind": found["kind"], "name": found["name"], "recipe": found["recipe"]})
        return {"cancelled": ended}

    def do_picture(self, id: str) -> dict[str, Any]:
        return {"png": png(PICTURES[id.partition(":")[0]])}

    def do_results(self, before: str = "", limit: int = 500) -> dict[str, Any]:
        gone = [one for one in self.made.values() if one["state"] == "trashed"]
        size = sum(one["bytes_after"] for one in gone)
        return {"results": list(self.made.values()), "more": False, "trash": {"items": len(gone), "bytes": size}}

    def do_undo(self, result: str) -> dict[str, Any]:
        self.made[result]["state"] = "trashed"
        self.library_revision += 1
        return {"result": self.made[result], "kept": [], "note": self.settings.get("note", "")}

    def do_restore(self, result: str = "", item: str = "") -> dict[str, Any]:
        self.made[result or item]["state"] = "there"
        return {"result": self.made[result or item], "name": self.made[result or item]["output"]}

    def do_trash(self) -> dict[str, Any]:
        gone = [one for one in self.made.values() if one["state"] == "trashed"]
        items = [
            {
                "item": one["result"],
                "name": one["output"],
                "bytes": one["bytes_after"],
                "files": 2,
                "trashed": 1.0,
                "result": one["result"],
            }
            for one in gone
        ]
        return {"items": items}

    def do_empty_trash(self, confirm: bool = False) -> dict[str, Any]:
        if not confirm:
            raise StubError("confirm", "This deletes the contents of the trash for good. Confirm it.")
        for one in self.made.values():
            one["state"] = "gone" if one["state"] == "trashed" else one["state"]
        return {"files": 2, "bytes": 1}

    def do_prompt_tag(self, name: str = "", result: str = "") -> dict[str, Any]:
        if self.settings.get("unlisted"):  # the host has not looked at its folders since
            raise StubError("file", f"no LoRA is named {name!r} here. Refresh the list.")
        new = self.made[result]["output"] if result else name
        source = self.made[result]["name"] if result else name
        return {
            "tag": f"<lora:{new}:0.8>", "name": new, "weight": 0.8, "activation": "prbstyle", "negative": "",
            "old_names": [source, "Pastry"],
        }  # fmt: skip

    def do_read_prompt(self, prompt: str) -> dict[str, Any]:
        try:
            tags = parse_prompt(prompt).tags
        except PromptError as error:
            return {"ok": False, "message": str(error), "column": error.column, "tags": [], "warnings": [], "name": ""}
        listed: list[dict[str, Any]] = [
            {
                "text": str(tag), "name": tag.name, "lora": tag.name if tag.name in self.files else None,
                "column": tag.column, "troubles": self._troubles(tag), "remarks": list(tag.warnings),
            }
            for tag in tags
        ]  # fmt: skip
        good = [one for one in listed if not one["troubles"]]
        families = {self.files[one["name"]]["family"] for one in good}
        other = {"kind": "other_family", "text": "These LoRAs are made for different models."}
        return {
            "ok": bool(good), "message": "" if good else "The prompt names no LoRA that can be baked.", "column": 0,
            "tags": listed, "warnings": [other] if len(families) > 1 else [], "name": "+".join(one["name"] for one in good),
        }  # fmt: skip

    def _troubles(self, tag: Any) -> list[str]:
        missing = [] if tag.name in self.files else [f"{tag.name}: no LoRA of this name is in the list."]
        return [*missing, *tag.errors]

    def do_bake(self, prompt: str, name: str = "", recipe: str = "", target: Any = None, options: Any = None) -> Any:
        tags = [tag for tag in parse_prompt(prompt).tags if not self._troubles(tag)]
        if "/" in name:
            raise StubError("request", f"name {name!r}: use letters, digits, spaces, - and _, as in my_mix.")

        def work() -> dict[str, Any]:
            made = self._resizing({**self._file(tags[0].name), "name": name}, recipe, target or {"retention": 1.0})()
            made |= {"name": tags[0].name, "output": name, "baked": [str(tag) for tag in tags]}
            self.files[name] = file(name, 10.0)
            return made

        return {"job": self._job("bake", f"{tags[0].name} → {name}", name, work), "left": []}

    def do_bake_plan(
        self, prompt: str, name: str = "", recipe: str = "", target: Any = None, options: Any = None
    ) -> Any:
        tags = [tag for tag in parse_prompt(prompt).tags if not self._troubles(tag)]
        if not tags:
            raise StubError("file", "The prompt names no LoRA that can be baked.")

        def work() -> dict[str, Any]:
            parts = sum(self.files[tag.name]["bytes"] for tag in tags)
            point = self._point(self._file(tags[0].name), recipe, target or {"retention": 1.0})
            after = point["bytes"] if target or recipe else parts
            return {
                "name": " + ".join(tag.name for tag in tags), "output": name or "mix", "bytes_before": parts,
                "bytes_after": after, "saved": 1 - after / parts, "retention": point["retention"],
                "recipe": recipe or "rank=100000", "notes": ["turned: 3 layers (OFT) were merged with the reference"],
                "ranks": point["ranks"], "layers_gone": point["layers_gone"],
            }  # fmt: skip

        return {"job": self._job("bake_plan", f"plan {name}", name, work)}

    def do_bake_into(self, result: str, prompt: str) -> dict[str, Any]:
        gone = [tag for text in self.made[result]["baked"] for tag in parse_prompt(text).tags]
        there = [tag for tag in parse_prompt(prompt).tags if tag in gone]
        new = f"<lora:{self.made[result]['output']}:1>"
        return {"prompt": replaced(prompt, there, new), "replaced": len(there), "tag": new}

    def do_extract(
        self,
        tuned: str = "loaded",
        base: str = "file",
        name: str = "",
        text_encoders: bool = True,
        recipe: str = "",
        target: Any = None,
        options: Any = None,
    ) -> Any:
        if tuned == "loaded" and self.settings.get("unloaded"):
            raise StubError("reference", "No checkpoint is loaded, so there is nothing in memory to compare with.")
        stem = name or f"{'juggernautXL_v9' if tuned == 'loaded' else tuned}-{base}"

        def work() -> dict[str, Any]:
            source = file(stem, 6617.0)
            made = self._resizing(source, recipe, target or {})()
            made |= {
                "name": stem,
                "output": stem,
                "extracted": True,
                "notes": ["rank 64 holds 71.0 % of the difference"],
            }
            self.files[stem] = file(stem, 90.0)
            return made

        return {"job": self._job("extract", f"difference → {stem}", stem, work)}

    def do_compare(
        self,
        settings: dict[str, Any],
        name: str = "",
        result: str = "",
        entry: str = "",
        without: bool = False,
        seeds: int = 1,
    ) -> Any:
        def work() -> dict[str, Any]:
            effect = effect_record(seeds) if without and not self.settings.get("weak") else None
            if effect and result in self.made:
                self.made[result]["effect"] = effect
            if effect and entry:
                self.keep_effect(entry, effect)
            note = self.settings.get("compare_note", "")
            return comparison(without, seeds, effect, settings.get("seed", 1), note)

        job = self._job("compare", f"Compare {name or result or entry}", name, work)
        self.jobs[job]["images"] = images_of(without, seeds)
        return {"job": job}
