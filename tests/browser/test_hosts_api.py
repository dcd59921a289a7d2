"""The HTTP API of a running WebUI that was started with ``--resize-lora-api`` and no login; without it, skipped."""

from __future__ import annotations

import time
from typing import Any

import pytest
from browser_kit import URL, resizable
from host_kit import LONG, long_picture, stop_picture

pytestmark = pytest.mark.skipif(not URL, reason="name a running WebUI in RESIZE_LORA_URL")


class Api:
    def __init__(self, page: Any) -> None:
        self._request = page.request

    def get(self, route: str, status: int = 200) -> Any:
        return self._checked(self._request.get(self._url(route)), status)

    def post(self, route: str, status: int = 200, **body: Any) -> Any:
        return self._checked(self._request.post(self._url(route), data=body), status)

    def done(self, job: str) -> Any:
        deadline = time.monotonic() + LONG / 1000
        while time.monotonic() < deadline:
            one = self.get(f"job/{job}")
            if one["state"] in ("done", "failed", "cancelled"):
                return one
            time.sleep(0.2)
        raise TimeoutError(job)

    def resized(self, name: str) -> Any:
        (job,) = self.post("resize", 202, names=[name], target={"preset": "low"})["jobs"]
        one = self.done(job)
        assert one["state"] == "done", one["error"]
        return one["result"]

    def names(self) -> set[str]:
        return {one["name"] for one in self.get("list")["files"]}

    def _url(self, route: str) -> str:
        return f"{str(URL).rstrip('/')}/resize-lora/v1/{route}"

    def _checked(self, answer: Any, status: int) -> Any:
        assert answer.status == status, answer.text()
        return answer.json()


@pytest.fixture
def api(webui: Any) -> Api:
    if webui.request.get(f"{str(URL).rstrip('/')}/resize-lora/v1/hello").status != 200:
        pytest.skip("start this WebUI with --resize-lora-api and without a login")
    return Api(webui)


def test_a_file_is_made_undone_and_restored(webui: Any, api: Api) -> None:
    made = api.resized(resizable(webui)["name"])
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


def test_since_tells_what_changed(webui: Any, api: Api) -> None:
    before = api.get("list")
    assert api.get(f"list?since={before['revision']}")["files"] == []
    made = api.resized(resizable(webui)["name"])
    after = api.get(f"list?since={before['revision']}")
    assert made["output"] in {one["name"] for one in after["files"]}
    assert len(after["files"]) < len(before["files"])
    jobs = api.get("jobs")
    assert api.get(f"jobs?since={jobs['revision']}")["queue"] == []


def test_cancel_stops_a_job_that_waits_for_the_picture(webui: Any, api: Api) -> None:
    name, before = resizable(webui)["name"], api.names()
    long_picture(webui)
    try:
        jobs = api.post("resize", 202, names=[name], recipe="rank=1:rank=2")["jobs"]
        assert sorted(api.post("cancel", jobs=jobs)["cancelled"]) == sorted(jobs)
        assert {api.done(job)["state"] for job in jobs} == {"cancelled"}
        assert api.get("jobs")["active"] == 0
    finally:
        stop_picture(webui)
    assert api.names() == before


def test_what_is_not_there_is_told(webui: Any, api: Api) -> None:
    assert api.post("resize", 404, names=["no LoRA is called so"], target={"preset": "low"})["error"]["kind"] == "file"
    assert api.post("undo", 404, result="r999999")["error"]["kind"] == "gone"
    assert api.get("job/j999999", 404)["error"]["kind"] == "gone"
    assert api.post("resize", 422, names=[resizable(webui)["name"]], recipe="tnr=1")["error"]["column"] == 1
