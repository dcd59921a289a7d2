"""Laws of temporaries: those of dead runs go at the next start, those of live runs never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lib_resize.files import atomic, drafts

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="open files cannot be removed on Windows")

HOLD = """
    import sys, time
    from pathlib import Path
    from lib_resize.files.atomic import AtomicFile

    draft = AtomicFile(Path(sys.argv[1]) / "x.safetensors")
    draft.open()
    draft.write(bytes(100))
    if sys.argv[2] == "finished":
        draft.finish()
    print("ready", flush=True)
    time.sleep(60)
"""


def started(folder: Path, state: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), folder, state], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@posix
@pytest.mark.parametrize("state", ["open", "finished"])
def test_what_a_kill_left_goes_at_the_next_start_and_no_sooner(tmp_path, state):
    child = started(tmp_path, state)
    try:
        (left,) = tmp_path.iterdir()
        atomic.sweep(tmp_path)
        assert left.exists()
        old = time.time() - 48 * 3600
        os.utime(left, (old, old))
        drafts.sweep(tmp_path)
        assert left.exists()
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    atomic.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_thread_of_this_process_is_alive_as_well(tmp_path):
    with atomic.AtomicFile(tmp_path / "x.safetensors") as draft:
        draft.open()
        atomic.sweep(tmp_path)
        assert draft.path.exists()


@pytest.mark.parametrize(("hours", "is_kept"), [(23, True), (25, False)])
def test_temporaries_of_other_machines_go_after_a_day(tmp_path, hours, is_kept):
    """Their locks may be invisible here."""
    left = tmp_path / ".resize-lora-0123456789abcdef.part"
    left.write_bytes(bytes(100))
    then = time.time() - hours * 3600
    os.utime(left, (then, then))
    drafts.sweep(tmp_path)
    assert left.exists() is is_kept


@posix
def test_a_temporary_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    true_lock = drafts._lock
    swept: list[Path] = []

    def lock(fd: int, *, wait: bool) -> bool:
        if wait and not swept:
            swept.extend(tmp_path.iterdir())
            swept[0].unlink()
        return true_lock(fd, wait=wait)

    monkeypatch.setattr(drafts, "_lock", lock)
    path, fd = drafts.create(tmp_path)
    os.close(fd)
    assert swept
    assert path.exists()
    assert path not in swept


@posix
def test_links_and_other_names_are_left_alone(tmp_path):
    kept = tmp_path / "precious"
    kept.write_bytes(b"x")
    link = drafts.new_path(tmp_path)
    link.symlink_to(kept)
    (tmp_path / ".resize-lora-mine.part").touch()
    (tmp_path / (drafts.new_path(tmp_path).name + "x")).touch()
    drafts.new_path(tmp_path).mkdir()
    before = sorted(tmp_path.iterdir())
    drafts.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("folder", ["missing", "nul\0", "file"])
def test_a_folder_that_cannot_be_read_raises_nothing(tmp_path, folder):
    (tmp_path / "file").touch()
    drafts.sweep(tmp_path / folder)
