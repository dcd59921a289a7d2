"""A real scheduler with two processes, and a real server of the S3 protocol: killed in the middle, and resumed."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_resize.remote.listing import list_items
from lib_resize.remote.order import Order, WorkItem
from lib_resize.remote.stores import STATE
from lib_resize.remote.unit import Line
from tests.remote.material import (
    RECIPES,
    contents,
    leftovers,
    markers,
    order_for,
    plain_results,
    run,
    write_library,
    write_tiny,
)

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.filterwarnings("ignore"),  # of the libraries
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("remote") / "loras", 12)


@pytest.fixture(scope="module")
def plain(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return plain_results(library, tmp_path_factory.mktemp("plain"))


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """Start the command as the leader of a group of processes, as a terminal does."""
    command = [sys.executable, "-m", "lib_resize", "resize", *map(str, arguments), "-r", RECIPES]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def wait_for_markers(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while len(markers(out)) < count:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "end"),
    [(signal.SIGKILL, os.kill), (signal.SIGKILL, os.killpg), (signal.SIGINT, os.killpg)],
    ids=["driver killed", "all killed", "Ctrl-C"],
)
def test_a_driver_that_ends_in_the_middle_is_resumed(library, tmp_path, plain, number, end) -> None:
    process = start(library, "-o", tmp_path, "--cluster", "local:2")
    wait_for_markers(tmp_path, 2, process)
    end(process.pid, number)
    output, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b"Traceback" not in output, output
        assert b"stopped; finished files are complete" in output
    wait_for_the_end_of(process.pid)
    assert contents(tmp_path).items() <= plain.items()
    assert run("resize", library, "-o", tmp_path, "-r", RECIPES, "--shard", "0/1") == 0, "without any engine"
    assert contents(tmp_path) == plain
    assert len(markers(tmp_path)) == 12
    assert leftovers(tmp_path) == []


def wait_for_the_end_of(group: int) -> None:
    """Wait until no process of a group runs: workers end by themselves when their driver is gone."""
    end = time.monotonic() + 60
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < end, "a worker is still there"
        time.sleep(0.05)


def dying_once(item: WorkItem, order: Order) -> Line:
    """Do a piece of work in a worker that is killed before the marker of one file, the first time."""
    from lib_resize.remote.local_store import LocalPlace
    from lib_resize.remote.unit import Worker

    flag, write = Path(order.output, "killed-once"), LocalPlace.write

    def killed(self: LocalPlace, name: str, data: bytes) -> None:
        if item.stem == "e" and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, name, data)

    LocalPlace.write = killed  # type: ignore[method-assign]
    try:
        return Worker(order).do(item)
    finally:
        LocalPlace.write = write  # type: ignore[method-assign]


def dying_always(item: WorkItem, order: Order) -> Line:
    if item.stem == "e":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"key": "", "source": item.url, "results": []}


def test_a_killed_worker_is_replaced_and_a_file_that_kills_them_all_is_named(library, tmp_path, plain) -> None:
    from lib_resize.remote.dask_workers import by_dask

    items = list_items([str(library)])
    lines = [line for _, line in by_dask("local:2", items, order_for(tmp_path), work=dying_once)]
    (tmp_path / "killed-once").unlink()
    assert [line["error"] for line in lines if "error" in line] == []
    assert len(lines) == 12
    assert contents(tmp_path) == plain

    lines = [line for _, line in by_dask("local:2", items, order_for(tmp_path), work=dying_always)]
    failed = [line for line in lines if "error" in line]
    assert [(line["kind"], Path(line["source"]).stem) for line in failed] == [("KilledWorker", "e")]
    assert len(lines) == 12


def slow_or_dying(item: WorkItem, order: Order) -> Line:
    """Be killed while the others, in threads of the same process, are at work."""
    time.sleep(0.1 if item.name.startswith("e.") else 0.5)
    return dying_always(item, order)


def test_files_next_to_one_that_kills_the_worker_are_done(tmp_path) -> None:
    """Dask counts a death against every file that the worker has at that moment."""
    import dask
    from distributed import LocalCluster

    from lib_resize.remote.dask_workers import by_dask

    items = [WorkItem("s3://in", f"{stem}.safetensors", 1, "t") for stem in "abcdefghijkl"]
    options = {"processes": True, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.deploy.lost-worker-timeout": "1 day"}
    with dask.config.set(settings), LocalCluster(n_workers=1, threads_per_worker=12, **options) as cluster:
        work = by_dask(cluster.scheduler_address, items, order_for(tmp_path), work=slow_or_dying)
        lines = [line for _, line in work]
    failed = [line for line in lines if "error" in line]
    assert [(line["kind"], line["source"]) for line in failed] == [("KilledWorker", "s3://in/e.safetensors")]
    assert sorted(line["source"] for line in lines) == sorted(item.url for item in items)


def test_a_worker_that_dies_again_and_again_comes_back(tmp_path) -> None:
    """Dask closes a worker for good that is away at a certain time after any death. The work would never end."""
    import dask

    from lib_resize.remote.dask_workers import by_dask

    items = [WorkItem("s3://in", f"{stem}.safetensors", 1, "t") for stem in "ef"]
    lines: list[Line] = []

    def work() -> None:
        lines.extend(line for _, line in by_dask("local:1", items, order_for(tmp_path), work=dying_always))

    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.deploy.lost-worker-timeout": "100 ms"}
    with dask.config.set(settings):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(60)
    assert {Path(line["source"]).stem: line.get("kind") for line in lines} == {"e": "KilledWorker", "f": None}


def state(item: WorkItem, order: Order) -> Line:
    found = {"trim": os.environ.get("MALLOC_TRIM_THRESHOLD_"), "gc": gc.get_threshold()[0]}
    found["blas"] = os.environ.get("OPENBLAS_NUM_THREADS")
    return {"key": "", "source": item.url, "results": [], "state": found}


def test_local_workers_are_set_up_as_the_command_itself(tmp_path, monkeypatch) -> None:
    """Dask's own settings cost as much time as half of the work."""
    from lib_resize.remote.dask_workers import by_dask

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    items = [WorkItem("s3://in", "a.safetensors", 1, "t")]
    ((_, line),) = by_dask("local:1", items, order_for(tmp_path), work=state)
    assert line["state"] == {"trim": None, "gc": 100_000, "blas": "1"}


def test_few_files_are_in_flight(tmp_path) -> None:
    """The list of files is drawn on as work is done: memory is bounded."""
    from lib_resize.remote.dask_workers import WINDOW, by_dask

    drawn = done = most = 0

    def items() -> Iterator[WorkItem]:
        nonlocal drawn
        for number in range(200):
            drawn += 1
            yield WorkItem("s3://in", f"{number}.safetensors", 1, "t")

    names = set()
    for item, line in by_dask("local:2", items(), order_for(tmp_path), work=nothing):
        done += 1
        most = max(most, drawn - done)
        names.add(item.name)
        assert line["source"] == item.url
    assert len(names) == done == 200
    assert most <= 2 * WINDOW + 1


def nothing(item: WorkItem, order: Order) -> Line:
    return {"key": "", "source": item.url, "results": []}


@pytest.fixture
def scheduler() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler with two workers, each a process of its own: its address and process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    dask = (
        [sys.executable, "-m", "distributed.cli.dask_scheduler"],
        [sys.executable, "-m", "distributed.cli.dask_worker"],
    )
    address = f"tcp://127.0.0.1:{port}"
    more = [
        ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        [address, "--nworkers", "2", "--no-dashboard"],
    ]
    processes = [
        subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command, options in zip(dask, more, strict=True)
    ]
    try:
        yield address, processes[0]
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:  # a worker that still looks for its scheduler
                process.kill()
                process.wait()


def test_the_workers_of_a_scheduler_do_the_work(library, tmp_path, plain, scheduler) -> None:
    address, _ = scheduler
    assert run("resize", library, "-o", tmp_path, "-r", RECIPES, "--cluster", address) == 0
    assert contents(tmp_path) == plain


def slowly(item: WorkItem, order: Order) -> Line:
    time.sleep(0.1)
    return {"key": "", "source": item.url, "results": []}


def test_a_scheduler_that_ends_ends_the_run(tmp_path, scheduler, capfd) -> None:
    from lib_resize.remote.dask_workers import ClusterLostError, by_dask

    address, process = scheduler
    items = [WorkItem("s3://in", f"{number}.safetensors", 1, "t") for number in range(1000)]
    lines = by_dask(address, items, order_for(tmp_path), work=slowly)
    next(lines)
    process.kill()
    with pytest.raises(ClusterLostError, match="The same command goes on"):
        list(lines)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_named(library, tmp_path, address, capsys, monkeypatch) -> None:
    from lib_resize.remote import dask_workers

    monkeypatch.setattr(dask_workers, "CONNECT_SECONDS", 1)
    assert run("resize", library, "-o", tmp_path, "-r", RECIPES, "--cluster", address) == 2
    assert "no scheduler answers there" in capsys.readouterr().err


# S3 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a server for S3 on this machine."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
    server.stop()


def test_s3_to_s3_on_a_cluster_killed_and_resumed_by_shards(library, tmp_path, plain, s3) -> None:
    import s3fs

    store = s3fs.S3FileSystem()
    store.mkdir("bucket")
    store.put(str(library), "bucket/my loras", recursive=True)
    done = "bucket/small/.resize-lora/done"
    process = start("s3://bucket/my loras", "-o", "s3://bucket/small", "--cluster", "local:2", **s3)
    end = time.monotonic() + 120
    while not store.exists(done) or len(store.find(done)) < 3:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
        store.invalidate_cache()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for part in ("0/2", "1/2"):
        assert run("resize", "s3://bucket/my loras", "-o", "s3://bucket/small", "-r", RECIPES, "--shard", part) == 0
    store.invalidate_cache()
    store.get("bucket/small", str(tmp_path / "small"), recursive=True)
    assert len(store.find(done)) == 12
    found = contents(tmp_path / "small")
    assert found.keys() == plain.keys()
    assert {name for name in found if found[name] != plain[name]} == {
        name for name in found if name.endswith(".json")
    }, "they name the URL"
    fields = json.loads((tmp_path / "small" / "a_rank2.metadata.json").read_bytes())
    assert fields["file_path"] == "s3://bucket/small/a_rank2.safetensors"
    assert run("cluster", "report", "s3://bucket/small") == 0
    summary = json.loads(store.cat_file(f"bucket/small/{STATE}/summary.json"))
    assert (summary["files"], summary["results"]) == (12, 24)


def test_an_object_that_was_replaced_is_done_again(tmp_path, s3) -> None:
    import s3fs

    store = s3fs.S3FileSystem()
    store.mkdir("changing")
    tags = set()
    for seed in (1, 2):
        store.put_file(str(write_tiny(tmp_path / "a.safetensors", seed)), "changing/in/a.safetensors")
        (item,) = list_items(["s3://changing/in"])
        tags.add(item.tag)
        assert run("resize", "s3://changing/in", "-o", "s3://changing/out", "-r", "rank=2", "--overwrite") == 0
        assert list_items(["s3://changing/in/a.safetensors"])[0].tag == item.tag
    assert len(tags) == 2
    assert all(len(tag) == 32 for tag in tags), "the checksum of the store"


def test_a_bucket_that_is_missing_is_named(library, s3, capsys) -> None:
    assert run("resize", library / "a.safetensors", "-o", "s3://nowhere/out", "-r", "rank=2", "--retries", "0") == 1
    assert "a.safetensors" in capsys.readouterr().err
