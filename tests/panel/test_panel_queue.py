"""One thread, jobs in order, each of which can be stopped; the host's picture comes first."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from lib_resize.errors import FileError
from lib_resize.panel.faults import Fault
from lib_resize.panel.jobs import JobSpec
from lib_resize.panel.queue import Queue
from tests.panel.panelhost import fake_host


@pytest.fixture
def queue(host):
    made = Queue(host)
    yield made
    made.close()
    made.join()


def work(run, title: str = "job", **more) -> JobSpec:
    return JobSpec("resize", title, run, **more)


def job(queue: Queue, id: str) -> dict[str, Any]:
    return next(one for one in queue.status()["queue"] if one["id"] == id)


def wait(queue: Queue, id: str, *states: str) -> dict[str, Any]:
    states = states or ("done", "failed", "cancelled")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if job(queue, id)["state"] in states:
            return job(queue, id)
        time.sleep(0.002)
    raise AssertionError(job(queue, id))


def endless(handle):
    handle.start("analyse", 10**6)
    while True:
        handle.step()
        time.sleep(0.001)


def test_jobs_run_in_order_in_one_thread(queue: Queue) -> None:
    ran = []
    ids = [queue.add(work(lambda handle, n=n: ran.append((n, threading.get_ident())))) for n in range(20)]
    wait(queue, ids[-1])
    assert [number for number, _ in ran] == list(range(20))
    assert len({thread for _, thread in ran}) == 1


def test_a_job_that_is_put_first_goes_before_all_that_wait(queue: Queue) -> None:
    ran, gate = [], threading.Event()
    queue.add(work(lambda handle: gate.wait(5)))
    later = queue.add(work(lambda handle: ran.append("later")))
    queue.add(work(lambda handle: ran.append("first")), first=True)
    gate.set()
    wait(queue, later)
    assert ran == ["first", "later"]


@pytest.mark.parametrize("error", [FileError("x: broken"), ValueError("ours"), MemoryError(), OSError(28, "No space")])
def test_a_job_that_fails_does_not_stop_the_next(queue: Queue, error: Exception) -> None:
    def fails(handle):
        raise error

    first, second = queue.add(work(fails)), queue.add(work(lambda handle: 5))
    assert wait(queue, second)["result"] == 5
    failed = job(queue, first)
    assert failed["state"] == "failed"
    assert failed["error"]["message"]


def test_cancel_takes_back_what_waits_and_stops_what_runs(queue: Queue) -> None:
    running, waiting = queue.add(work(endless)), queue.add(work(lambda handle: pytest.fail("it was cancelled")))
    wait(queue, running, "running")
    assert [job.id for job in queue.cancel([waiting, running, "j99"])] == [waiting, running]
    assert wait(queue, running)["state"] == "cancelled"
    assert job(queue, waiting)["state"] == "cancelled"
    assert queue.cancel([running]) == []
    assert queue.add(work(lambda handle: None))
    assert queue.status()["active"] <= 1


def test_a_job_waits_while_the_host_makes_a_picture_and_reports_it(host, queue: Queue) -> None:
    host.working_on = "txt2img"
    id = queue.add(work(lambda handle: "ran"))
    assert wait(queue, id, "waits")["stage"] == "waiting for the current image"
    assert not any(event[0] == "begin_job" for event in host.events)
    host.working_on = None
    assert wait(queue, id)["result"] == "ran"


def test_a_job_that_waits_for_a_picture_can_be_cancelled_and_the_picture_goes_on(host, queue: Queue) -> None:
    host.working_on = "txt2img"
    id = queue.add(work(lambda handle: pytest.fail("it was cancelled")))
    wait(queue, id, "waits")
    queue.cancel([id])
    assert wait(queue, id)["state"] == "cancelled"
    assert host.working_on == "txt2img"
    assert not any(event[0] in ("stop_generating", "begin_job", "end_job") for event in host.events)


def test_the_host_is_notified_of_begin_and_end_however_the_job_ends(host, queue: Queue) -> None:
    ids = [queue.add(work(lambda handle: 1, "good")), queue.add(work(lambda handle: 1 / 0, "bad"))]
    wait(queue, ids[-1])
    names = [event[0] for event in host.events]
    assert names.count("begin_job") == names.count("end_job") == names.count("tidy") == 2


def test_a_host_whose_progress_fails_does_not_stop_a_job(host, queue: Queue) -> None:
    for name in ("begin_job", "progress", "end_job", "tidy", "busy"):
        setattr(host, name, lambda *arguments: 1 / 0)

    def steps(handle):
        handle.start("analyse", 3)
        handle.step(3)
        return "fine"

    assert wait(queue, queue.add(work(steps)))["result"] == "fine"


def test_the_host_adds_the_title_of_a_job_itself(host, queue: Queue) -> None:
    texts: list[str] = []
    host.progress = lambda done, total, text: texts.append(text)

    def steps(handle):
        handle.start("analyse", 3)
        handle.step(3)

    wait(queue, queue.add(work(steps, "a title")))
    assert texts == ["analyse 3/3"]


def test_status_since_a_revision_has_only_what_changed(queue: Queue) -> None:
    first = queue.add(work(lambda handle: 1))
    wait(queue, first)
    revision = queue.status()["revision"]
    assert queue.status(revision)["queue"] == []
    second = queue.add(work(lambda handle: 2))
    wait(queue, second)
    assert [one["id"] for one in queue.status(revision)["queue"]] == [second]


def test_the_time_left_is_measured_and_falls(queue: Queue) -> None:
    def slow(handle):
        handle.portion(0.0, 1.0)
        handle.start("analyse", 100)
        for _ in range(100):
            time.sleep(0.01)
            handle.step()

    id = queue.add(work(slow))
    seen = []
    while (one := job(queue, id))["state"] in ("queued", "running"):
        if one["seconds_left"] is not None:
            seen.append(one["seconds_left"])
        time.sleep(0.05)
    assert seen[0] < 3.0
    assert seen[-1] < seen[0]


def test_close_ends_the_thread(tmp_path: Path) -> None:
    queue = Queue(fake_host(tmp_path))
    id = queue.add(work(endless))
    wait(queue, id, "running")
    queue.close()
    queue.join()
    assert job(queue, id)["state"] == "cancelled"
    assert queue._thread is not None
    assert not queue._thread.is_alive()


def test_too_many_jobs_are_refused_before_any_is_queued(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_resize.panel.queue.MOST_ADDED", 3)
    monkeypatch.setattr("lib_resize.panel.queue.MOST_ACTIVE", 5)
    with pytest.raises(Fault, match="4 jobs"):
        queue.add_all([work(endless)] * 4)
    assert queue.status()["active"] == 0
    queue.add_all([work(endless)] * 3)
    with pytest.raises(Fault, match="3 jobs are in the queue"):
        queue.add_all([work(endless)] * 3)
    assert queue.status()["active"] == 3


def test_places_are_those_of_now_also_for_jobs_that_did_not_change(queue: Queue) -> None:
    gate = threading.Event()
    ids = queue.add_all([work(lambda handle: None), work(lambda handle: gate.wait(5)), work(endless), work(endless)])
    wait(queue, ids[1], "running")
    status = queue.status(queue.status()["revision"])
    assert status["queue"] == []
    assert {id: place for id, (place, _) in status["places"].items()} == {ids[1]: 0, ids[2]: 1, ids[3]: 2}
    assert len({job(queue, id)["batch"] for id in ids}) == 1
    gate.set()


def test_a_page_that_missed_jobs_is_asked_to_reload(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_resize.panel.job_list._KEPT_JOBS", 2)
    wait(queue, queue.add(work(lambda handle: 0)))
    since = queue.status()["revision"]
    ids = [queue.add(work(lambda handle: 1)) for _ in range(6)]
    wait(queue, ids[-1])
    queue.add_done(work(endless), 1)
    assert queue.status(since)["reset"]
    assert [one["id"] for one in queue.status(since)["queue"]] == [one["id"] for one in queue.status()["queue"]]
    assert not queue.status(queue.status()["revision"])["reset"]
    assert not queue.status()["reset"]
    assert queue.status(10**9)["reset"], "of another server"


def test_an_old_analysis_loses_its_result_and_is_still_known_as_done(queue: Queue) -> None:
    """A client that orders many analyses, and then waits for one after another, learns of the end of each."""
    ids = [queue.add_done(JobSpec("analyse", "job", endless), number) for number in range(25)]
    other = queue.add_done(work(endless), "kept")
    assert {job(queue, id)["state"] for id in ids} == {"done"}
    assert [job(queue, id)["result"] for id in ids] == [None] * 5 + list(range(5, 25))
    assert job(queue, other)["result"] == "kept"


def test_a_background_job_gives_way_and_goes_on_where_it_was(queue: Queue) -> None:
    ran: list[object] = []
    gate = threading.Event()
    parts = iter(range(3))

    def many(handle):
        for part in parts:
            ran.append(part)
            gate.wait(5)
            handle.give_way()
        return "all"

    background = queue.add(work(many, background=True))
    wait(queue, background, "running")
    other = queue.add(work(many, background=True))
    resize = queue.add(work(lambda handle: ran.append("resize")))
    assert [place for place, _ in queue.status()["places"].values()] == [0, 1, 2]
    gate.set()
    wait(queue, background)
    wait(queue, other)
    assert job(queue, resize)["state"] == "done"
    assert ran == [0, "resize", 1, 2]


def test_a_picture_that_begins_after_the_stop_is_stopped_too(queue: Queue) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def picture(handle):
        begun.wait(5)
        stopped.clear()  # as a host does at the start of a picture
        assert stopped.wait(5)
        handle.check()

    id = queue.add(work(picture, stop=stopped.set))
    wait(queue, id, "running")
    queue.cancel([id])
    begun.set()
    assert wait(queue, id)["state"] == "cancelled"


class Images:
    """What a job works with."""


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_what_a_job_worked_with_is_freed_when_it_ends(queue: Queue, fails: bool) -> None:
    images = Images()
    held = weakref.ref(images)

    def run(_: Any, images: Images = images) -> None:
        if fails:
            raise FileError(f"{type(images).__name__}: damaged.")

    ended = queue.add(work(run))
    del images, run
    wait(queue, ended)
    end = time.monotonic() + 60
    while held() is not None and time.monotonic() < end:  # the thread may still be leaving the job
        gc.collect()
        time.sleep(0.01)
    assert held() is None
