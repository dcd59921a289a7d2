"""The HTTP API of Resize LoRA in a running WebUI."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts_real.rest import ENDED, Api, Rest, image_in_progress, until


@pytest.fixture
def name(api: Api) -> str:
    """The smallest LoRA that can be resized and is not a result."""
    sound = [one for one in api.files() if not one["problem"] and not one["ours"] and one["fits"] is not False]
    return str(min(sound, key=lambda one: one["bytes"])["name"])


def test_a_file_is_made_undone_and_restored(api: Api, name: str) -> None:
    made = api.resized(name)
    assert made["output"] in api.names()
    assert made["result"] in {one["result"] for one in api.get("results")["results"]}
    api.post("undo", result=made["result"])
    assert made["output"] not in api.names()
    (item,) = [one for one in api.get("trash")["items"] if one["name"] == made["output"]]
    api.post("restore", item=item["item"])
    assert made["output"] in api.names()
    api.post("undo", result=made["result"])
    api.post("restore", result=made["result"])
    assert made["output"] in api.names()


def test_since_returns_what_changed(api: Api, name: str) -> None:
    before = until(lambda: unchanged_list(api), "a list that does not change")  # sizes are estimated after the start
    made = api.resized(name)
    after = api.get(f"list?since={before['revision']}")
    assert made["output"] in {one["name"] for one in after["files"]}
    assert len(after["files"]) < len(before["files"])
    until(lambda: changed_jobs(api) == [], "a moment in which no job changes")  # sizes are estimated meanwhile


def unchanged_list(api: Api) -> Any:
    """Return the list, if nothing has changed since it was read."""
    found = api.get("list")
    return found if api.get(f"list?since={found['revision']}")["files"] == [] else None


def changed_jobs(api: Api) -> list[Any]:
    jobs = api.get("jobs")
    return list(api.get(f"jobs?since={jobs['revision']}")["queue"])


@pytest.mark.needs("generate")
def test_cancel_stops_a_job_that_waits_for_the_image(host: Rest, api: Api, name: str) -> None:
    before = api.names()
    with image_in_progress(host, api):
        jobs = api.post("resize", 202, names=[name], recipe="rank=1:rank=2", again=True)["jobs"]
        cancelled = api.post("cancel", jobs=jobs)["cancelled"]
        assert [one["job"] for one in cancelled] == jobs
        assert [one["recipe"] for one in cancelled] == ["rank=1", "rank=2"]
        assert {api.done(job)["state"] for job in jobs} == {"cancelled"}
        assert not [one for one in api.get("jobs")["queue"] if one["kind"] == "resize" and one["state"] not in ENDED]
    assert api.names() == before


def test_what_does_not_exist_is_reported(api: Api, name: str) -> None:
    assert api.post("resize", 404, names=["no LoRA is called so"], target={"preset": "low"})["error"]["kind"] == "file"
    assert api.post("undo", 404, result="r999999")["error"]["kind"] == "gone"
    assert api.get("job/j999999", 404)["error"]["kind"] == "gone"
    assert api.post("resize", 422, names=[name], recipe="tnr=1")["error"]["column"] == 1
