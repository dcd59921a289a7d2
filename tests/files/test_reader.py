"""Laws of reading: the bytes of the file, read when asked for, and an error where the file changed meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.errors import DamagedFileError, FileError
from lib_resize.files import reader, steady
from lib_resize.files.header import DTYPE_BYTES, TensorSpec, encode
from lib_resize.files.reader import STORAGE, SafeFile, fingerprint


def write(path: Path, tensors: list[tuple[str, str, tuple[int, ...], bytes]], lead: int = 0) -> Path:
    """A file with these tensors; ``lead`` bytes of padding in the header move the tensor region."""
    raw = encode([TensorSpec(name, dtype, shape) for name, dtype, shape, _ in tensors])[8:] + b" " * lead
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(data for *_, data in tensors))
    return path


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "模 型.safetensors"
    save_file(
        {
            "half": rng.standard_normal((6, 4, 3, 3)).astype(np.float16),
            "single": rng.standard_normal((5, 7)).astype(np.float32),
            "double": rng.standard_normal(3),
            "long": np.arange(4),
            "flag": np.array([True, False]),
            "empty": np.zeros((0, 4), np.float16),
            "alpha": np.array(8, np.float32),
        },
        path,
    )
    return path


@pytest.mark.parametrize("lead", range(9))
@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_bits_are_the_bytes_of_the_file_at_any_alignment(tmp_path, dtype, lead):
    data = bytes(range(1, 1 + 6 * DTYPE_BYTES[dtype]))
    path = write(tmp_path / "x.safetensors", [("pad", "U8", (lead,), bytes(lead)), ("a", dtype, (2, 3), data)], lead)
    with SafeFile(path) as file:
        for array in (file.bits("a"), file.bits("a", (0, 2))):
            assert array.dtype == STORAGE[dtype]
            assert array.shape == (2, 3)
            assert array.tobytes() == data
            assert not array.flags.writeable
        assert file.bytes("a") == data
        assert file.bits("a", (1, 2)).tobytes() == data[len(data) // 2 :]


def test_storage_is_as_documented():
    for dtype in ("F16", "BF16", "I16"):
        assert STORAGE[dtype] == np.uint16
    for dtype in ("F8_E4M3", "F8_E5M2", "U8", "BOOL"):
        assert STORAGE[dtype] == np.uint8
    assert STORAGE["F32"] == np.float32
    assert STORAGE["F64"] == np.float64
    assert STORAGE.keys() == DTYPE_BYTES.keys()
    for dtype, storage in STORAGE.items():
        assert storage.itemsize == DTYPE_BYTES[dtype]


@pytest.mark.parametrize("rows", [(0, 6), (0, 0), (2, 5), (5, 6), (6, 6)])
def test_rows_are_the_rows_of_the_whole(sample, rows):
    with SafeFile(sample) as file:
        np.testing.assert_array_equal(file.bits("half", rows), file.bits("half")[rows[0] : rows[1]])


@pytest.mark.parametrize("rows", [(-1, 2), (3, 2), (0, 7)])
def test_rows_outside_the_tensor_are_refused(sample, rows):
    with SafeFile(sample) as file, pytest.raises(ValueError, match="shape"):
        file.bits("half", rows)


def test_rows_of_a_scalar_are_refused(sample):
    with SafeFile(sample) as file, pytest.raises(ValueError, match="alpha"):
        file.bits("alpha", (0, 1))


def test_an_empty_tensor_is_an_empty_array(sample):
    with SafeFile(sample) as file:
        assert file.bits("empty").shape == (0, 4)
        assert file.bytes("empty") == b""


def test_arrays_outlive_the_file(sample):
    with SafeFile(sample) as file:
        array, rows = file.bits("single"), file.bits("long", (1, 3))
        expected = array.copy()
    sample.write_bytes(b"")
    np.testing.assert_array_equal(array, expected)
    assert rows.tolist() == [1, 2]


def test_a_closed_file_reports_it_and_closes_twice(sample):
    file = SafeFile(sample)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.bits("half")


def test_a_damaged_file_leaves_nothing_open(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(DamagedFileError):
        SafeFile(path)
    path.rename(tmp_path / "y.safetensors")  # fails on Windows if a handle is left
    with pytest.raises(FileError):
        SafeFile(path)


def test_sha256_is_that_of_the_whole_file(tmp_path):
    path = write(tmp_path / "x.safetensors", [("a", "U8", (3_000_001,), bytes(3_000_001))])
    with SafeFile(path) as file:
        assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_hashed_in_pieces(tmp_path, monkeypatch):
    path = write(tmp_path / "x.safetensors", [("a", "F32", (5000,), np.arange(5000, dtype="<f4").tobytes())])
    monkeypatch.setattr(steady, "_PIECE", 777)
    file = steady.SteadyFile(path)
    for start in (0, 1, 777, path.stat().st_size):
        assert file.sha256(start) == hashlib.sha256(path.read_bytes()[start:]).hexdigest()
    file.close()


READS: dict[str, Callable[[SafeFile], object]] = {
    "bits": lambda file: file.bits("b"),
    "rows": lambda file: file.bits("b", (1000, 2000)),
    "bytes": lambda file: file.bytes("b"),
    "sample": lambda file: file.sample(9000, 100),
    "sha256": lambda file: file.sha256(),
    "fingerprint": fingerprint,
}


def cut(path: Path) -> None:
    os.truncate(path, 4096)


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(9000)
        stream.write(b"x")
    os.utime(path, ns=(1, 1))  # clocks of file systems are coarse


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("change", [cut, grow, rewrite])
@pytest.mark.parametrize("read", READS)
def test_a_file_that_changes_while_it_is_open_is_an_error_by_name(tmp_path, monkeypatch, read, change, fallback):
    """A map of a file that shrinks would end the process."""
    if fallback:
        monkeypatch.delattr(os, "preadv")
    path = write(tmp_path / "x.safetensors", [("a", "U8", (8,), bytes(8)), ("b", "U8", (2000, 10), bytes(20_000))])
    with SafeFile(path) as file:
        READS[read](file)
        change(path)
        with pytest.raises(FileError, match=r"x\.safetensors: the file changed while it was being read \(it "):
            READS[read](file)


def test_a_file_that_is_replaced_while_it_is_open_is_read_to_its_end(tmp_path):
    """A new file under the same name is another file: what is open is still whole."""
    path = write(tmp_path / "x.safetensors", [("a", "U8", (8,), b"original")])
    other = write(tmp_path / "y.safetensors", [("a", "U8", (8,), b"replaced")])
    with SafeFile(path) as file:
        other.replace(path)
        assert file.bytes("a") == b"original"


def test_a_disk_that_fails_is_reported_by_name(tmp_path, monkeypatch):
    path = write(tmp_path / "x.safetensors", [("a", "U8", (8,), bytes(8))])

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with SafeFile(path) as file:
        monkeypatch.setattr(os, "preadv", fail, raising=False)
        with pytest.raises(FileError, match=r"x\.safetensors: cannot be read at byte \d+: Input/output error"):
            file.bits("a")


def test_reads_that_end_early_go_on(tmp_path, monkeypatch):
    path = write(tmp_path / "x.safetensors", [("a", "U8", (1000,), bytes(range(250)) * 4)])
    if hasattr(os, "preadv"):
        true_read = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: true_read(fd, [buffers[0][:7]], at))
    with SafeFile(path) as file:
        assert file.bytes("a") == bytes(range(250)) * 4


def test_no_module_maps_a_file():
    """What shrinks under a map ends the process. (The safetensors library maps the file that we have just written.)"""
    package = Path(reader.__file__).parents[1]
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"\b(import mmap|memmap|mmap_mode|GGUFReader)\b", text), path


def test_threads_may_read_at_once(tmp_path):
    data = np.random.default_rng(1).integers(0, 256, 2_500_000, np.uint8).tobytes()
    path = write(tmp_path / "x.safetensors", [("a", "U8", (1250, 2000), data)])
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    found = []
    with SafeFile(path) as file:

        def work() -> None:
            found.append(file.sha256())
            found.append(fingerprint(file))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert set(found) == {expected, fingerprint(file)}


BF16 = [(8.0, 0x4100), (-0.5, 0xBF00), (1.0, 0x3F80)]
E4M3 = [(8.0, 0x50), (-0.5, 0xB0), (448.0, 0x7E), (2.0**-9, 0x01), (16.0, 0x58)]
E5M2 = [(8.0, 0x48), (-0.5, 0xB8), (57344.0, 0x7B), (2.0**-16, 0x01)]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize(
    ("dtype", "value", "data"),
    [
        ("F16", 5.332, struct.pack("<e", 5.332)),
        ("F32", 0.1, struct.pack("<f", 0.1)),
        ("F64", 0.1, struct.pack("<d", 0.1)),
        ("U8", 200, b"\xc8"),
        ("I8", -3, b"\xfd"),
        ("I16", -3, struct.pack("<h", -3)),
        ("U16", 65533, struct.pack("<H", 65533)),
        ("I32", -70000, struct.pack("<i", -70000)),
        ("U32", 4_000_000_000, struct.pack("<I", 4_000_000_000)),
        ("I64", 16, struct.pack("<q", 16)),
        ("U64", 16, struct.pack("<Q", 16)),
        ("BOOL", 1, b"\x01"),
        *[("BF16", value, struct.pack("<H", bits)) for value, bits in BF16],
        *[("F8_E4M3", value, bytes([bits])) for value, bits in E4M3],
        *[("F8_E5M2", value, bytes([bits])) for value, bits in E5M2],
    ],
)
def test_scalar_is_the_number_for_every_dtype(tmp_path, dtype, value, data, shape):
    path = write(tmp_path / "x.safetensors", [("pad", "U8", (1,), b"\0"), ("alpha", dtype, shape, data)])
    with SafeFile(path) as file:
        assert file.scalar("alpha") == pytest.approx(value, rel=1e-3 if dtype == "F16" else 1e-7)


def test_all_fp8_values_agree_with_torch():
    torch = pytest.importorskip("torch")
    from lib_resize.files.reader import _DECODE

    bits = np.arange(256, dtype=np.uint8)
    for dtype, torch_dtype in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        expected = torch.from_numpy(bits.copy()).view(torch_dtype).to(torch.float64).numpy()
        np.testing.assert_array_equal(_DECODE[dtype](bits).astype(np.float64), expected)


@pytest.mark.parametrize(("dtype", "shape"), [("F32", (2,)), ("F32", (0,)), ("C64", (1,)), ("F8_E8M0", (1,))])
def test_scalar_of_what_is_no_single_number_is_refused(tmp_path, dtype, shape):
    spec = TensorSpec("layer.alpha", dtype, shape)
    path = write(tmp_path / "x.safetensors", [("layer.alpha", dtype, shape, bytes(spec.nbytes))])
    with SafeFile(path) as file, pytest.raises(DamagedFileError, match=r"layer\.alpha"):
        file.scalar("layer.alpha")


def make_base(path: Path, rows: int = 40, change: int | None = None) -> Path:
    tensors = {f"w{i}": np.full((rows, 64), i, np.float16) for i in range(5)} | {"bias": np.zeros(64, np.float16)}
    if change is not None:
        tensors[f"w{change}"][rows // 2] += 1
    save_file(tensors, path, {"title": "base"})
    return path


def print_of(path: Path) -> str:
    with SafeFile(path) as file:
        return fingerprint(file)


def test_fingerprint_is_of_the_content_not_of_the_path(tmp_path):
    first = make_base(tmp_path / "a.safetensors")
    copy = tmp_path / "moved"
    copy.mkdir()
    shutil.copy(first, copy / "b.safetensors")
    assert print_of(first) == print_of(copy / "b.safetensors")
    assert len(print_of(first)) == 64


@pytest.mark.parametrize("change", range(5))
def test_fingerprints_of_two_finetunes_differ(tmp_path, change):
    first = make_base(tmp_path / "a.safetensors")
    second = make_base(tmp_path / "b.safetensors", change=change)
    with SafeFile(first) as a, SafeFile(second) as b:
        assert a.header == b.header
    assert print_of(first) != print_of(second)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_give_their_memory_back(tmp_path):
    mib = 1 << 20
    path = write(tmp_path / "x.safetensors", [("w", "U8", (64, mib), bytes(64 * mib))])

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024

    with SafeFile(path) as file:
        before = resident()
        for row in range(0, 64, 8):
            rows = file.bits("w", (row, row + 8))
            assert int(rows.sum()) == 0
            del rows
        assert resident() - before < 12 * mib
