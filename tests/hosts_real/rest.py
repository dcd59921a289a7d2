"""A client for a running WebUI: the host's own API and that of Resize LoRA. Standard library only."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.hosts_real.limits import limits

OURS = "resize-lora/v1/"
ENDED = ("done", "failed", "cancelled")


class UnreachableError(Exception):
    """No answer came; the text gives the reason."""


class Rest:
    """A client for the WebUI at an address."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") + "/"

    @property
    def hostname(self) -> str:
        return str(urlsplit(self.url).hostname)

    def ask(self, route: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Return status and content of an answer, as JSON or else text. Sends POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=limits.long) as answer:
                return answer.status, _content(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error.read())
        except OSError as error:
            raise UnreachableError(str(getattr(error, "reason", error))) from None

    def get(self, route: str, status: int = 200) -> Any:
        return _checked(status, *self.ask(route))

    def post(self, route: str, status: int = 200, **body: Any) -> Any:
        return _checked(status, *self.ask(route, body))

    def settings(self, **values: Any) -> None:
        """Change settings of the host's page."""
        self.post("sdapi/v1/options", **values)

    def interrupt(self) -> None:
        """Stop the current image."""
        status, content = self.ask("sdapi/v1/interrupt", {})
        assert status in (200, 204), content


class Api(Rest):
    """A client for the routes of Resize LoRA."""

    def get(self, route: str, status: int = 200) -> Any:
        return super().get(OURS + route, status)

    def post(self, route: str, status: int = 200, **body: Any) -> Any:
        return super().post(OURS + route, status, **body)

    def done(self, job: str) -> Any:
        """Wait for the end of a job; return it."""
        return until(lambda: _at_its_end(self.get(f"job/{job}")), f"the end of job {job}")

    def resized(self, name: str, **what: Any) -> Any:
        """Resize a LoRA, to Low by default; return the result. It is made again where it exists already."""
        (job,) = self.post("resize", 202, names=[name], again=True, **(what or {"target": {"preset": "low"}}))["jobs"]
        one = self.done(job)
        assert one["state"] == "done", one["error"]
        return one["result"]

    def names(self) -> set[str]:
        """Names of all installed LoRAs."""
        return {one["name"] for one in self.files()}

    def files(self) -> list[dict[str, Any]]:
        return list(until(self._complete, "the complete library")["files"])

    def results(self) -> dict[str, dict[str, Any]]:
        """All results, by id."""
        return {one["result"]: one for one in self.get("results")["results"]}

    def stop(self) -> None:
        """Cancel all jobs."""
        jobs = [one["id"] for one in self.get("jobs")["queue"] if one["state"] not in ENDED]
        if jobs:
            self.post("cancel", jobs=jobs)

    def undo_all_but(self, kept: Collection[str]) -> None:
        """Move all results to the trash except `kept`."""
        for id, made in self.results().items():
            if made["state"] == "there" and id not in kept:
                self.post("undo", result=id)

    def _complete(self) -> Any:
        answer = self.get("list")
        return answer if answer["complete"] else None


@contextmanager
def image_in_progress(host: Rest, api: Api) -> Iterator[None]:
    """Make the host generate an image during a block; it takes until it is stopped."""
    settings = {"prompt": "a cake", "steps": 150, "width": 64, "height": 64}
    maker = threading.Thread(target=host.ask, args=("sdapi/v1/txt2img", settings), daemon=True)
    maker.start()
    try:
        until(lambda: api.get("jobs")["busy"] is not None, "an image")
        yield
    finally:
        host.interrupt()
        maker.join(limits.long)


@contextmanager
def refreshing(host: Rest) -> Iterator[None]:
    """Make the host read its folder of LoRAs again and again during a block."""
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            host.ask("sdapi/v1/refresh-loras", {})

    threads = [threading.Thread(target=refresh, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(limits.long)


def until(found: Callable[[], Any], what: str, pause: float = 0.2) -> Any:
    """Wait until `found` returns something true; return it. Raises ``TimeoutError``."""
    end = time.monotonic() + limits.long
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(pause)
    raise TimeoutError(f"{what} did not come within {limits.long:.0f} s; a slow machine needs a larger --patience")


def _at_its_end(job: Any) -> Any:
    return job if job["state"] in ENDED else None


def _checked(wanted: int, status: int, content: Any) -> Any:
    assert status == wanted, content
    return content


def _content(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")
