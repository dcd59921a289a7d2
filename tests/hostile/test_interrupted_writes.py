"""Kills, full disks and rivals: the final name shows a whole file or none, and the source is never touched."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib_resize.errors import OutputError
from lib_resize.files import atomic
from lib_resize.files.header import TensorSpec, read_header
from lib_resize.files.reader import SafeFile
from lib_resize.files.writer import write_safetensors

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


COPY_FOREVER = """
    import itertools, sys
    from pathlib import Path
    from lib_resize.files.header import TensorSpec, file_order
    from lib_resize.files.reader import SafeFile
    from lib_resize.files.writer import verify, write_safetensors

    folder = Path(sys.argv[1])
    source = folder / "source.safetensors"
    with SafeFile(source) as file:
        specs = file_order(TensorSpec(n, e.dtype, e.shape) for n, e in file.header.entries.items())
        print("ready", flush=True)
        for turn in itertools.count():
            write_safetensors(
                folder / f"out_{turn % 5}.safetensors", specs, {}, (file.bytes(spec.name) for spec in specs),
                overwrite=True, check=lambda path: verify(path, specs), sources=[source],
            )
"""


def make_source(folder: Path) -> str:
    specs = [TensorSpec(f"t{i:02}", "F16", (100, 1000)) for i in range(10)]
    rng = np.random.default_rng(0)
    source = folder / "source.safetensors"
    write_safetensors(source, specs, {}, (rng.standard_normal((100, 1000)).astype(np.float16) for _ in specs))
    with SafeFile(source) as file:
        return file.sha256()


def test_a_kill_at_any_moment_leaves_whole_files_only(tmp_path):
    source_hash = make_source(tmp_path)
    model_hash = read_header(tmp_path / "source.safetensors").metadata["sshs_model_hash"]
    rng = random.Random(0)
    seen, halves = set(), 0
    for _ in range(8):
        child = start(COPY_FOREVER, tmp_path)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.stderr and child.stderr.read()
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        child.communicate()
        for path in tmp_path.glob("*.safetensors"):
            seen.add(path.name)
            with SafeFile(path) as file:
                assert file.header.metadata["sshs_model_hash"] == model_hash
                assert file.sha256() == source_hash
        halves += len(list(tmp_path.glob(".resize-lora-*.part")))
    assert len(seen) > 1  # something was written
    assert halves > 0  # and something was interrupted


def test_what_a_kill_left_is_swept_a_day_later(tmp_path):
    left = tmp_path / ".resize-lora-0123456789abcdef.part"
    left.write_bytes(bytes(100))
    atomic.sweep(tmp_path)
    assert left.exists()  # it may be at work
    old = time.time() - 25 * 3600
    os.utime(left, (old, old))
    atomic.sweep(tmp_path)
    assert not left.exists()


INTERRUPTED = """
    import sys, time
    from pathlib import Path
    from lib_resize.files.header import TensorSpec
    from lib_resize.files.writer import write_safetensors

    def chunks():
        yield bytes(3 << 20)
        print("ready", flush=True)
        time.sleep(30)
        yield bytes(3 << 20)

    specs = [TensorSpec(name, "U8", (3 << 20,)) for name in "ab"]
    write_safetensors(Path(sys.argv[1]) / "x.safetensors", specs, {}, chunks())
"""


@posix
def test_ctrl_c_from_outside_leaves_nothing(tmp_path):
    import signal

    child = start(INTERRUPTED, tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert list(tmp_path.iterdir()) == []


RIVAL = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from lib_resize.errors import OutputError
    from lib_resize.files.header import TensorSpec
    from lib_resize.files.writer import write_safetensors

    folder, value = Path(sys.argv[1]), int(sys.argv[2])
    print("ready", flush=True)
    while not (folder / "go").exists():
        time.sleep(0.001)
    for turn in range(40):
        try:
            write_safetensors(
                folder / f"{turn}.safetensors", [TensorSpec("a", "U8", (200_000,))], {},
                [np.full(200_000, value, np.uint8)],
            )
            print(turn)
        except OutputError as error:
            assert "exists already" in str(error), error
"""


def test_of_two_processes_exactly_one_writes_a_name(tmp_path):
    rivals = [start(RIVAL, tmp_path, value) for value in (1, 2)]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    won = []
    for rival in rivals:
        out, errors = rival.communicate(timeout=60)
        assert rival.returncode == 0, errors
        won.append({int(line) for line in out.split()})
    assert won[0] | won[1] == set(range(40))
    assert not won[0] & won[1]
    for turn in range(40):
        assert set(load_file(tmp_path / f"{turn}.safetensors")["a"]) == {1 if turn in won[0] else 2}
    assert not list(tmp_path.glob(".resize-lora-*"))


def two_mib(path: Path, overwrite: bool = False) -> None:
    specs = [TensorSpec(f"t{i}", "U8", (1 << 19,)) for i in range(4)]
    write_safetensors(path, specs, {}, (bytes(1 << 19) for _ in specs), overwrite=overwrite)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB; needs root on Linux."""
    folder = tmp_path / "tiny disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_is_refused_before_and_survived_during_the_write(tiny_disk, monkeypatch):
    path = tiny_disk / "x.safetensors"
    with pytest.raises(OutputError, match=r"the disk has .* MiB free, the file needs 2\.00 MiB"):
        two_mib(path)
    monkeypatch.setattr("lib_resize.files.writer.check_room", lambda *_: None)
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="no space is left"):
        two_mib(path, overwrite=True)
    assert [item.name for item in tiny_disk.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == b"precious"


def test_a_really_read_only_disk_is_reported(tiny_disk):
    (tiny_disk / "x.safetensors").write_bytes(b"precious")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for name in ("x.safetensors", "y.safetensors"):
        with pytest.raises(OutputError, match="mounted read-only"):
            two_mib(tiny_disk / name, overwrite=True)
    assert (tiny_disk / "x.safetensors").read_bytes() == b"precious"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user who can be denied")
def test_a_read_only_folder_is_reported(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="no permission to write in the folder"):
        two_mib(folder / "x.safetensors")
    with pytest.raises(OutputError, match="no permission to write in the folder"):
        two_mib(folder / "new" / "x.safetensors")
    assert list(folder.iterdir()) == []


LIMITED = """
    import resource, sys
    from pathlib import Path
    from lib_resize.errors import OutputError
    from lib_resize.files.header import TensorSpec
    from lib_resize.files.writer import write_safetensors

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        specs = [TensorSpec("a", "U8", (2 << 20,))]
        write_safetensors(Path(sys.argv[1]) / "x.safetensors", specs, {}, [bytes(2 << 20)])
    except OutputError as error:
        print(error)
"""


@posix
def test_a_limit_on_file_sizes_is_reported(tmp_path):
    out, errors = start(LIMITED, tmp_path).communicate(timeout=60)
    assert "larger than this disk or account allows" in out, errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 1, 100, 300_000, 1_500_000])
def test_a_disk_that_fills_at_any_byte_leaves_nothing(tmp_path, monkeypatch, room):
    left = room
    true_write = os.write

    def write(fd: int, data: memoryview) -> int:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        count = true_write(fd, data[:left])
        left -= count
        return count

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OutputError, match="no space is left"):
        two_mib(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
