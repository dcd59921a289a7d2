"""What pages ask of a server that was restarted, of orders given twice, and of comparisons."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.panel.panelhost import Browser

MEDIUM = {"preset": "medium"}


def raw(browser: Browser, method: str, session: Any, **params: Any) -> dict[str, Any]:
    question = {"id": 1, "method": method, "params": params, "session": session}
    answer: dict[str, Any] = json.loads(browser.service.call(json.dumps(question)))
    return answer


def test_a_page_of_an_earlier_server_changes_nothing(browser: Browser) -> None:
    own = browser.ask("hello")["session"]
    assert own == browser.ask("status")["session"]
    for method in ("resize", "cancel", "undo", "restore", "empty_trash", "compare", "bake", "extract"):
        answer = raw(browser, method, "0" * 16, names=["pastry"], target=MEDIUM)
        assert answer["error"]["kind"] == "stale", method
    assert browser.ask("status")["queue"] == []
    assert "result" in raw(browser, "library", "0" * 16)
    assert raw(browser, "undo", own, result="r1")["error"]["kind"] == "gone"
    assert raw(browser, "hello", 5)["error"]["kind"] == "request"


def test_the_same_order_is_recognised_in_the_queue_and_on_the_disk(browser: Browser, host: Any, root: Path) -> None:
    host.working_on = "txt2img"
    first = browser.ask("resize", names=["ink", "ink"], recipe="rank=2:rank=2")
    assert len(first["jobs"]) == 1
    second = browser.ask("resize", names=["ink"], target={"rank": 2})
    assert (second["jobs"], second["same"][0]["job"]) == ([], first["jobs"][0])
    host.working_on = None
    made = browser.done(first["jobs"][0])
    third = browser.ask("resize", names=["ink"], target={"rank": 2})
    assert third["same"] == [{"name": "ink", "recipe": made["recipe"], "job": None, "result": made["result"]}]
    assert browser.ask("resize", names=["ink"], target={"rank": 1})["same"] == []
    browser.ask("undo", result=made["result"])
    assert browser.ask("resize", names=["ink"], target={"rank": 2})["same"] == []


def test_a_small_request_does_not_make_thousands_of_jobs(browser: Browser) -> None:
    recipes = ":".join(f"rank={number}" for number in range(1, 900))
    error = browser.error("resize", names=["pastry", "ink"], recipe=recipes)
    assert error["kind"] == "recipe"
    assert "16" in error["message"]
    names = [f"n{number}" for number in range(2600)]
    assert browser.error("resize", names=names, recipe="rank=1:rank=2")["kind"] == "refused"
    assert browser.ask("status")["queue"] == []


def test_what_was_stopped_is_reported(browser: Browser, host: Any) -> None:
    host.working_on = "txt2img"
    jobs = browser.ask("resize", names=["pastry", "ink"], target={"rank": 2})["jobs"]
    cancelled = browser.ask("cancel", jobs=jobs)["cancelled"]
    assert [(one["job"], one["name"], one["recipe"]) for one in cancelled] == [
        (jobs[0], "pastry", "rank=2"),
        (jobs[1], "ink", "rank=2"),
    ]


def noise(request: Any) -> Any:
    """A picture that does not compress."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(abs(hash(request["prompt"])))
    return Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))


def test_pictures_are_asked_for_one_by_one_and_status_stays_small(browser: Browser, host: Any) -> None:
    host.picture = noise
    made = browser.resized("ink", target={"rank": 2})
    ids = [browser.ask("compare", result=made["result"], settings={}, without=True)["job"] for _ in range(5)]
    results = [browser.done(id) for id in ids]
    assert len(json.dumps(browser.ask("status"))) < 20_000
    sizes = []
    for one in results[-1]["pictures"]:
        png = base64.b64decode(browser.ask("picture", id=one["id"])["png"])
        assert png.startswith(b"\x89PNG")
        sizes.append((one["width"], one["height"]))
    assert sizes == [(64, 64)] * 4
    assert browser.error("picture", id=results[0]["pictures"][0]["id"])["kind"] == "gone"
    browser.ask("picture", id=results[1]["pictures"][0]["id"])


def test_no_note_of_a_result_has_a_path(browser: Browser, root: Path, monkeypatch: Any) -> None:
    from lib_resize.errors import OutputError
    from lib_resize.panel import resizing

    def fails(*_: Any, **__: Any) -> Any:
        raise OutputError(f"{root / 'ink_2.png'}: no room")

    (root / "ink.png").write_bytes(b"picture")
    monkeypatch.setattr(resizing, "copy_sidecars", fails)
    made = browser.resized("ink", target={"rank": 2})
    assert "ink_2.png: no room" in made["notes"][-1]
    assert str(root) not in json.dumps([made, browser.ask("results"), browser.ask("status")])


def test_a_suffix_leads_out_of_no_folder(browser: Browser, root: Path) -> None:
    made = browser.resized("ink", target={"rank": 2}, options={"suffix": "/../../out"})
    assert (root / f"{made['output']}.safetensors").exists()
    assert browser.error("bake", prompt="<lora:ink:1>", name="../out")["kind"] == "request"


def test_a_file_that_changed_since_its_analysis_is_not_written_from(browser: Browser, root: Path) -> None:
    import os
    import shutil

    import pytest

    from lib_resize.errors import FileError
    from lib_resize.panel.analyses import reopened

    browser.analysed("ink")
    kept = browser.service.desk.analyses.get(browser.service.desk.host.resolve("ink"))
    assert kept is not None
    shutil.copy(root / "ink.safetensors", root / "copy.tmp")
    os.utime(root / "copy.tmp", (1, 1))
    (root / "copy.tmp").replace(root / "ink.safetensors")
    with pytest.raises(FileError, match="changed since"), reopened(kept):
        pass
