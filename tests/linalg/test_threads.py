"""One thread of numpy's OpenBLAS while we work, in processes that hold numpy already and lack threadpoolctl."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lib_resize.linalg import threads

ROOT = Path(__file__).parents[2]

PROBE = """
import ctypes, pathlib, sys, threading
sys.modules["threadpoolctl"] = None
import numpy as np
from lib_resize.linalg.threads import one_blas_thread

maps = pathlib.Path("/proc/self/maps").read_text().split("\\n")
names = ["scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"]
found = {line.split()[-1] for line in maps if "openblas" in line}
pairs = [(ctypes.CDLL(path), name) for path in found for name in names]
pair = next(((one, name) for one, name in pairs if hasattr(one, name)), None)
if pair is None:
    print("no OpenBLAS")
    sys.exit()
count = getattr(*pair)
getattr(pair[0], pair[1].replace("get", "set"))(3)
counts = [count()]
with one_blas_thread():
    counts.append(count())
    with one_blas_thread():
        counts.append(count())
    counts.append(count())
counts.append(count())
try:
    with one_blas_thread():
        raise KeyError
except KeyError:
    counts.append(count())
inside, out = threading.Barrier(3), threading.Event()
def work(last):
    with one_blas_thread():
        inside.wait()
        last and out.wait()
threads = [threading.Thread(target=work, args=(last,)) for last in (False, True)]
for thread in threads: thread.start()
inside.wait()
threads[0].join()
counts.append(count())
out.set()
threads[1].join()
counts.append(count())
print(np.__version__, counts)
"""


def pythons() -> list[str]:
    """This one, and those that have other versions of numpy."""
    return [sys.executable, *filter(None, os.environ.get("RESIZE_LORA_PYTHONS", "").split(os.pathsep))]


@pytest.mark.skipif(sys.platform != "linux", reason="the check itself reads /proc")
@pytest.mark.parametrize("python", pythons())
def test_openblas_has_one_thread_inside_and_as_many_as_before_after(python: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "no OpenBLAS" in done.stdout:
        pytest.skip("this numpy has another BLAS")
    assert done.stdout.partition(" ")[2].strip() == "[3, 1, 1, 1, 3, 3, 1, 3]"


class FakeBlas(SimpleNamespace):
    def __init__(self, count: int) -> None:
        super().__init__(count=count)
        self.threads = lambda: self.count
        self.set_threads = lambda count: setattr(self, "count", count)


def test_a_number_that_another_has_set_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    blas = FakeBlas(8)
    monkeypatch.setattr(threads, "_numpys_blas", lambda: blas)
    threads._limit.cache_clear()  # work of another test may still go on in this process
    try:
        with threads.one_blas_thread():
            assert blas.count == 1
            blas.count = 4
        assert blas.count == 4
    finally:
        threads._limit.cache_clear()


def test_another_library_than_openblas_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    threads._numpys_blas.cache_clear()
    threads._limit.cache_clear()
    odd = tmp_path / "libopenblas_odd.so"
    odd.write_bytes(b"not a library")
    monkeypatch.setattr(threads, "_libraries", lambda: [odd, tmp_path / "gone.so"])
    try:
        assert threads._numpys_blas() is None
        with threads.one_blas_thread(), threads.one_blas_thread():
            pass
    finally:
        threads._numpys_blas.cache_clear()
        threads._limit.cache_clear()


def library(functions: dict[str, SimpleNamespace]) -> ctypes.CDLL:
    return cast("ctypes.CDLL", SimpleNamespace(**functions))


@pytest.mark.parametrize("name", threads._NAMES)
def test_the_functions_are_found_under_every_name(name: str) -> None:
    names = {name.format("get_num_threads"): SimpleNamespace(), name.format("set_num_threads"): SimpleNamespace()}
    assert threads._functions(library(names)) is not None
    names.popitem()
    assert threads._functions(library(names)) is None
