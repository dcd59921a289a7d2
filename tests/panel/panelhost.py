"""A service over a made-up host, and small LoRAs for it."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lib_resize.panel.service import Service

ENDED = ("done", "failed", "cancelled")


def _fake() -> ModuleType:
    """The tests' own host; tests are no packages, so it is found by its place."""
    if "fake_host" not in sys.modules:
        spec = importlib.util.spec_from_file_location("fake_host", Path(__file__).parents[1] / "hosts" / "fake.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["fake_host"] = module
        spec.loader.exec_module(module)
    return sys.modules["fake_host"]


def fake_host(*roots: Path, **fields: Any) -> Any:
    return _fake().FakeHost(list(roots), **fields)


class Browser:
    """Asks as the page does, in JSON."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.asked = 0

    def reply(self, method: str, **params: Any) -> dict[str, Any]:
        self.asked += 1
        answer: dict[str, Any] = json.loads(
            self.service.call(json.dumps({"id": self.asked, "method": method, "params": params}))
        )
        assert answer["id"] == self.asked
        return answer

    def ask(self, method: str, **params: Any) -> Any:
        answer = self.reply(method, **params)
        assert "error" not in answer, answer
        return answer["result"]

    def error(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self.reply(method, **params)
        assert "result" not in answer, answer
        error: dict[str, Any] = answer["error"]
        return error

    def job(self, id: str) -> dict[str, Any]:
        return next(job for job in self.ask("status")["queue"] if job["id"] == id)

    def wait(self, id: str, states: tuple[str, ...] = ENDED, seconds: float = 20.0) -> dict[str, Any]:
        ended: dict[str, Any] = self.until(lambda: (job := self.job(id))["state"] in states and job, seconds)
        return ended

    def until(self, look: Any, seconds: float = 20.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = look()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError("it never came")

    def done(self, id: str) -> Any:
        job = self.wait(id)
        assert job["state"] == "done", job["error"]
        return job["result"]

    def analysed(self, *names: str, **more: Any) -> Any:
        return self.done(self.ask("analyse", names=list(names), **more)["job"])

    def resized(self, name: str, **more: Any) -> Any:
        more = more or {"target": {"preset": "medium"}}
        return self.done(self.ask("resize", names=[name], again=True, **more)["jobs"][0])

    def listed(self) -> dict[str, dict[str, Any]]:
        self.ask("library")
        last = 2**40  # a revision that never comes: no files are reported until all are known
        self.until(lambda: self.ask("library", since=last)["complete"])
        return {file["name"]: file for file in self.ask("library")["files"]}


def end_services(services: Iterable[Service]) -> None:
    """Close services, and wait for their threads."""
    for service in services:
        service.close()
        service.desk.queue.join()
        service.desk.library.join()
