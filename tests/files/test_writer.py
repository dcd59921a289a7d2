"""Laws of writing: the library reads what was announced, the hashes are kohya's, and it is all or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from lib_resize.errors import OutputError, ResizeError
from lib_resize.files import atomic, drafts, writer
from lib_resize.files.header import TensorSpec, file_order, read_header
from lib_resize.files.writer import Chunk, WrittenFile, file_bytes, verify, write_safetensors

KOHYA = {"ss_network_dim": "4", "ss_output_name": "x", "modelspec.title": "T", "sshs_model_hash": "stale"}
DTYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "|u1": "U8", "<i8": "I64", "<i2": "I16"}


def spec_of(name: str, array: np.ndarray) -> TensorSpec:
    return TensorSpec(name, DTYPES[array.dtype.str], array.shape)


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None, **options) -> WrittenFile:
    specs = file_order(spec_of(name, array) for name, array in arrays.items())
    return write_safetensors(path, specs, metadata or {}, (arrays[spec.name] for spec in specs), **options)


def mixed(count: int = 6, rows: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    kinds = [np.float16, np.float32, np.uint8, np.float64, np.int64, np.int16]
    return {f"层.{i}": (rng.standard_normal((rows, 8 + i)) * 50).astype(kinds[i % 6]) for i in range(count)}


def counted(chunks: Iterable[bytes], asked: list[bytes]) -> Iterator[bytes]:
    """The chunks; each is in `asked` as soon as it is asked for."""
    for chunk in chunks:
        asked.append(chunk)
        yield chunk


def left_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def kohya_hashes(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> tuple[str, str]:
    """Their algorithm on the real library: serialise once more with the ss_* fields alone, and hash that."""
    whole = save(arrays, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    tensors = whole[8 + int.from_bytes(whole[:8], "little") :]
    window = whole[0x100000 : 0x100000 + 0x10000]
    return hashlib.sha256(tensors).hexdigest(), hashlib.sha256(window).hexdigest()[:8]


@pytest.mark.parametrize("rows", [1, 40, 2500, 4000, 6000, 20000])
def test_hashes_are_those_of_kohya(tmp_path, rows):
    arrays = mixed(7, rows)
    path = tmp_path / "x.safetensors"
    written = write(path, arrays, KOHYA)
    loaded = load_file(path)
    metadata = read_header(path).metadata
    model_hash, legacy_hash = kohya_hashes(loaded, metadata)
    assert metadata["sshs_model_hash"] == written.model_hash == model_hash
    assert metadata["sshs_legacy_hash"] == legacy_hash
    if rows > 6000:
        assert legacy_hash != "e3b0c442"  # the window holds tensor data


@pytest.mark.parametrize("length", [0xFFE00, 0x100000, 0x104000, 0x120000])
def test_the_window_of_the_legacy_hash_may_lie_in_a_long_header(tmp_path, length):
    metadata = {"ss_tag_frequency": "t" * length}
    path = tmp_path / "x.safetensors"
    write(path, mixed(3), metadata)
    expected = kohya_hashes(load_file(path), metadata)
    found = read_header(path).metadata
    assert (found["sshs_model_hash"], found["sshs_legacy_hash"]) == expected


def test_hashes_are_those_of_kohya_for_half_precision_brain_floats(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save as save_torch

    down = torch.randn(64, 6000).bfloat16()
    small = torch.randn(8, 16).to(torch.float8_e4m3fn)
    alpha = torch.tensor(4.0)
    data = {"a": down.view(torch.uint8).numpy(), "b": small.view(torch.uint8).numpy(), "c": alpha.numpy()}
    specs = file_order(
        [TensorSpec("a", "BF16", (64, 6000)), TensorSpec("b", "F8_E4M3", (8, 16)), TensorSpec("c", "F32", ())]
    )
    path = tmp_path / "x.safetensors"
    write_safetensors(path, specs, KOHYA, (data[spec.name] for spec in specs), check=lambda at: verify(at, specs))
    loaded = load_torch(path)
    assert torch.equal(loaded["a"], down)
    metadata = read_header(path).metadata
    whole = save_torch(loaded, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    assert metadata["sshs_model_hash"] == hashlib.sha256(whole[8 + int.from_bytes(whole[:8], "little") :]).hexdigest()
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]


@given(st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)), max_size=6))
@settings(max_examples=60)
def test_the_library_loads_what_was_written(tmp_path_factory, described):
    arrays = {f"t{i}": np.full(shape, i + 1, dtype) for i, (dtype, shape) in enumerate(described)}
    path = tmp_path_factory.mktemp("write") / "x.safetensors"
    written = write(path, arrays, {"format": "pt", "ünï": "中文"})
    loaded = load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert read_header(path).metadata["ünï"] == "中文"
    specs = file_order(spec_of(name, array) for name, array in arrays.items())
    assert written.bytes == path.stat().st_size == file_bytes(specs, {"format": "pt", "ünï": "中文"})


def test_the_size_is_known_before_writing_with_and_without_old_hashes(tmp_path):
    arrays = mixed(3)
    specs = file_order(spec_of(name, array) for name, array in arrays.items())
    for name, metadata in (("a", {}), ("b", KOHYA)):
        assert write(tmp_path / f"{name}.safetensors", arrays, metadata).bytes == file_bytes(specs, metadata)
        assert (tmp_path / f"{name}.safetensors").stat().st_size == file_bytes(specs, metadata)


def test_same_input_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.safetensors", mixed(), KOHYA)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_chunks_may_be_any_bytes(tmp_path):
    arrays = {
        "a": np.arange(4, dtype=np.float32),
        "b": np.arange(3, dtype=np.float32),
        "c": np.array([[1]], np.float32),
    }
    specs = [spec_of(name, array) for name, array in arrays.items()]
    chunks: list[Chunk] = [arrays["a"].tobytes(), bytearray(arrays["b"].tobytes()), arrays["c"].data]
    assert isinstance(chunks[2], memoryview)
    write_safetensors(tmp_path / "x.safetensors", specs, {}, chunks)
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["b"], arrays["b"])


def test_complex_numbers_are_data_too(tmp_path):
    specs = [TensorSpec("a", "C64", (2,))]
    write_safetensors(tmp_path / "x.safetensors", specs, {}, [np.array([1j, 2], np.complex64)])
    assert read_header(tmp_path / "x.safetensors").entries["a"].shape == (2,)


def test_chunks_are_asked_for_one_at_a_time(tmp_path):
    specs = [TensorSpec(f"t{i}", "U8", (3 << 20,)) for i in range(4)]
    sizes = []

    def chunks():
        for _ in specs:
            sizes.append(sum(item.stat().st_size for item in tmp_path.iterdir()))
            yield bytes(3 << 20)

    write_safetensors(tmp_path / "x.safetensors", specs, {}, chunks())
    assert sizes[1] >= 3 << 20  # the first is on disk before the second is made
    assert sizes[3] >= 9 << 20


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([b"1234"], "'b'.*no data"),
        ([b"1234", b"123"], "'b': got 3 bytes, but F32 1 has 4"),
        ([b"1234", b"12345"], "'b': got 5 bytes"),
        ([b"1234", b"1234", b""], "more data than its 2 tensors"),
        ([b"1234", np.zeros((2, 2), np.uint8)[:, :1]], "'b': its array is not C-contiguous"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, chunks, words):
    specs = [TensorSpec("a", "F32", ()), TensorSpec("b", "F32", (1,))]
    with pytest.raises(OutputError, match=words):
        write_safetensors(tmp_path / "x.safetensors", specs, {}, chunks)
    assert left_in(tmp_path) == []


def test_tensors_out_of_order_are_refused(tmp_path):
    specs = [TensorSpec("a", "F16", (1,)), TensorSpec("b", "F32", (1,))]
    with pytest.raises(ValueError, match="file_order"):
        write_safetensors(tmp_path / "x.safetensors", specs, {}, [])
    assert left_in(tmp_path) == []


def test_folders_are_made(tmp_path):
    path = tmp_path / "新 文件夹" / "deep" / "名 字.safetensors"
    write(path, mixed(2))
    assert left_in(path.parent) == ["名 字.safetensors"]


def test_an_existing_file_is_kept_without_overwrite(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"precious")
    asked: list[bytes] = []
    with pytest.raises(OutputError, match="exists already"):
        write_safetensors(path, [TensorSpec("a", "U8", (1,))], {}, counted([b"1"], asked))
    assert path.read_bytes() == b"precious"
    assert asked == []  # refused before any work
    assert left_in(tmp_path) == ["x.safetensors"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "x.safetensors"

    def appear(_: Path) -> None:
        path.write_bytes(b"precious")

    with pytest.raises(OutputError, match="exists already"):
        write(path, mixed(2), check=appear)
    assert path.read_bytes() == b"precious"
    assert left_in(tmp_path) == ["x.safetensors"]


def test_overwrite_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    during = []
    write(path, mixed(2), overwrite=True, check=lambda _: during.append(path.read_bytes()))
    assert during == [b"old"]
    assert load_file(path).keys() == mixed(2).keys()
    assert left_in(tmp_path) == ["x.safetensors"]


def test_a_folder_of_that_name_is_refused_even_with_overwrite(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(OutputError, match="a folder of this name"):
        write(tmp_path / "x.safetensors", mixed(1), overwrite=True)


@pytest.mark.parametrize("link", [None, "hard", "soft"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_replaced(tmp_path, overwrite, link):
    source = tmp_path / "source.safetensors"
    source.write_bytes(b"source")
    path = source if link is None else tmp_path / "other.safetensors"
    try:
        if link == "hard":
            os.link(source, path)
        if link == "soft":
            path.symlink_to(source)
    except OSError:
        pytest.skip("this disk has no links")
    with pytest.raises(OutputError, match="the source file, which"):
        write(path, mixed(1), overwrite=overwrite, sources=[tmp_path / "absent", source])
    assert source.read_bytes() == b"source"


def test_the_check_sees_the_finished_file_under_a_name_no_host_lists(tmp_path):
    seen = []

    def check(path: Path) -> None:
        seen.append(path)
        assert path.parent == tmp_path
        assert not path.name.endswith((".safetensors", ".pt", ".ckpt", ".bin"))
        assert read_header(path).metadata["sshs_model_hash"] != "0" * 64
        assert not (tmp_path / "x.safetensors").exists()

    write(tmp_path / "x.safetensors", mixed(3), check=check)
    assert len(seen) == 1


class RefusedError(ResizeError):
    pass


def raise_in(stage: str, error: BaseException):
    """Options and data for a write that fails at one stage."""

    def chunks():
        yield np.zeros(1000, np.uint8)
        if stage == "data":
            raise error
        yield np.zeros(1000, np.uint8)

    def check(_: Path) -> None:
        if stage == "check":
            raise error

    return chunks(), check


@pytest.mark.parametrize("stage", ["data", "check"])
@pytest.mark.parametrize("error", [RefusedError("no"), KeyboardInterrupt(), MemoryError(), OSError(5, "their own")])
@pytest.mark.parametrize("existing", [False, True])
def test_any_exception_passes_and_leaves_nothing(tmp_path, stage, error, existing):
    path = tmp_path / "x.safetensors"
    if existing:
        path.write_bytes(b"old")
    chunks, check = raise_in(stage, error)
    specs = [TensorSpec(name, "U8", (1000,)) for name in "ab"]
    with pytest.raises(type(error)) as caught:
        write_safetensors(path, specs, {}, chunks, overwrite=True, check=check)
    assert caught.value is error
    assert left_in(tmp_path) == (["x.safetensors"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path):
    def chunks():
        yield bytes(1000)
        signal.raise_signal(signal.SIGINT)
        yield bytes(1000)

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x.safetensors", [TensorSpec(n, "U8", (1000,)) for n in "ab"], {}, chunks())
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EACCES, "no permission to write in the folder"),
        (errno.EROFS, "mounted read-only"),
        (errno.EFBIG, "larger than this disk or account allows"),
        (errno.EIO, "reported an error"),
        (errno.EBADF, "cannot be written"),
    ],
)
@pytest.mark.parametrize("function", ["open", "write", "fsync", "link"])
def test_faults_of_the_disk_are_reported_in_plain_words_and_leave_nothing(
    tmp_path, monkeypatch, function, number, words
):
    if function == "link" and (os.name == "nt" or number == errno.EACCES):
        pytest.skip("no link is made, or the fault means that none can be")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with pytest.raises(OutputError, match=words) as caught:
            write(tmp_path / "x.safetensors", mixed(2))
    assert str(tmp_path) in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_file_in_use_on_windows_is_reported_in_plain_words():
    error: Any = OSError(13, "denied")  # only Windows has `winerror`
    error.winerror = 32
    assert "another program has the file open" in atomic.explain(error, Path("x"))


def test_a_full_disk_is_noticed_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1 << 20))
    asked: list[bytes] = []
    specs = [TensorSpec("a", "U8", (3 << 20,))]
    with pytest.raises(OutputError, match=r"1\.00 MiB free, the file needs 3\.00 MiB"):
        write_safetensors(tmp_path / "x.safetensors", specs, {}, counted([bytes(3 << 20)], asked))
    assert asked == []
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("usage", [(0, 0, 0), None])
def test_a_disk_that_does_not_report_its_free_space_is_tried(tmp_path, monkeypatch, usage):
    def tell(_):
        if usage is None:
            raise OSError(errno.ENOSYS, "cannot tell")
        return shutil._ntuple_diskusage(*usage)

    monkeypatch.setattr(shutil, "disk_usage", tell)
    write(tmp_path / "x.safetensors", mixed(2))


@pytest.mark.parametrize("name", ["n" * 300 + ".safetensors", "中" * 85 + ".safetensors"])
def test_a_name_too_long_is_refused_before_any_work(tmp_path, name):
    with pytest.raises(OutputError, match=r"too long|cannot"):
        write_safetensors(tmp_path / name, [], {}, [])
    assert left_in(tmp_path) == []


def test_a_name_that_no_system_can_hold_is_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be a file name"):
        write(tmp_path / "a\x00b.safetensors", mixed(1))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file" / "x.safetensors", tmp_path / "file" / "deeper" / "x.safetensors"):
        with pytest.raises(OutputError, match="there is a file where its folder should be"):
            write(path, mixed(1))
    assert (tmp_path / "file").read_bytes() == b"x"


def test_temporaries_of_dead_runs_are_removed_and_nothing_else(tmp_path):
    old = time.time() - 2 * 24 * 3600
    names = {
        ".resize-lora-0123456789abcdef.part": True,
        ".resize-lora-0123456789abcde.part": False,
        ".resize-lora-0123456789abcdef.part.txt": False,
        "resize-lora-0123456789abcdef.part": False,
        "other.part": False,
        "x.tmp": False,
    }
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (old, old))
    young = tmp_path / ".resize-lora-fedcba9876543210.part"
    young.write_bytes(b"another run is at work")
    folder = tmp_path / ".resize-lora-aaaaaaaaaaaaaaaa.part"
    folder.mkdir()
    os.utime(folder, (old, old))
    write(tmp_path / "x.safetensors", mixed(1))
    kept = [name for name, stale in names.items() if not stale]
    assert left_in(tmp_path) == sorted([*kept, young.name, folder.name, "x.safetensors"])


def test_our_temporaries_match_the_pattern_of_the_sweep(tmp_path):
    names = []
    write(tmp_path / "x.safetensors", mixed(1), check=lambda path: names.append(path.name))
    assert re.fullmatch(r"\.resize-lora-[0-9a-f]{16}\.part", names[0])
    assert drafts._NAME.fullmatch(names[0])


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_of_one_name_exactly_one_wins(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    for turn in range(12):
        path = tmp_path / f"{turn}.safetensors"
        start = threading.Barrier(6)
        outcomes: list[int] = []
        refusals: list[str] = []

        def work(value: int, path: Path, start: threading.Barrier, outcomes: list[int], refusals: list[str]) -> None:
            try:
                write(path, {"a": np.full(50, value, np.uint8)}, check=lambda _: start.wait(10) and None)
                outcomes.append(value)
            except OutputError as error:
                refusals.append(str(error))

        workers = [threading.Thread(target=work, args=(value, path, start, outcomes, refusals)) for value in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(outcomes) == 1
        assert len(refusals) == 5
        assert all("exists already" in refusal for refusal in refusals)
        assert set(load_file(path)["a"]) == set(outcomes)
    assert left_in(tmp_path) == sorted(f"{turn}.safetensors" for turn in range(12))


def test_without_links_a_fault_other_than_missing_links_is_reported(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("fell back on a full disk"))
    if os.name != "nt":
        with pytest.raises(OutputError, match="no space"):
            write(tmp_path / "x.safetensors", mixed(1))


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "x.safetensors", mixed(1))
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def written(tmp_path: Path) -> tuple[Path, list[TensorSpec]]:
    arrays = mixed(4)
    write(tmp_path / "x.safetensors", arrays)
    return tmp_path / "x.safetensors", file_order(spec_of(name, array) for name, array in arrays.items())


def test_verify_accepts_what_was_written(tmp_path):
    verify(*written(tmp_path))


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "cut"])
def test_verify_refuses_what_differs(tmp_path, fault):
    path, specs = written(tmp_path)
    if fault == "missing":
        specs.append(TensorSpec("more", "F16", (1,)))
    if fault == "extra":
        specs.pop()
    if fault == "shape":
        specs[0] = TensorSpec(specs[0].name, specs[0].dtype, (specs[0].shape[1], specs[0].shape[0]))
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputError, match="read back"):
        verify(path, specs)


def test_verify_reads_dtypes_that_the_library_may_not_know(tmp_path):
    specs = file_order(TensorSpec(dtype, dtype, (2,)) for dtype in ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"))
    chunks = [bytes(spec.nbytes) for spec in specs]
    write_safetensors(tmp_path / "x.safetensors", specs, {}, chunks, check=lambda path: verify(path, specs))
    with pytest.raises(OutputError, match="F8_E8M0"):
        verify(tmp_path / "x.safetensors", [spec for spec in specs if spec.name != "F8_E8M0"])


def test_metadata_of_any_text_survives(tmp_path):
    metadata = {
        "a": 'quote " back \\ tab \t line \n nul \x00 esc \x1b',
        "ключ": "😀",
        "json": json.dumps({"k": "é\u2028"}),
    }
    write(tmp_path / "x.safetensors", mixed(1), metadata)
    found = read_header(tmp_path / "x.safetensors").metadata
    assert {key: found[key] for key in metadata} == metadata


@pytest.mark.parametrize("where", ["length", "header", "first byte", "middle", "last byte", "cut", "longer"])
def test_every_byte_is_read_back_from_the_disk(tmp_path, monkeypatch, where):
    """A byte that the disk changed, wherever it is, and the file never gets its name."""
    true_finish = atomic.AtomicFile.finish

    def spoiled(draft: atomic.AtomicFile) -> None:
        true_finish(draft)
        data = bytearray(draft.path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        at = {"length": 7, "header": 20, "first byte": start, "middle": (start + len(data)) // 2, "last byte": -1}
        if where in at:
            data[at[where]] ^= 1
        draft.path.write_bytes(data[:-1] if where == "cut" else data + b"x" if where == "longer" else data)

    monkeypatch.setattr(atomic.AtomicFile, "finish", spoiled)
    with pytest.raises(OutputError, match=r"x\.safetensors: the bytes on the disk are not the ones that were written"):
        write(tmp_path / "x.safetensors", mixed(6))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_bytes_and_name_reach_the_disk_in_this_order(tmp_path, monkeypatch, overwrite):
    """The file is synced when it is whole, read back, checked, named; then its folder is synced."""
    events: list[str] = []
    path = tmp_path / "x.safetensors"
    arrays = mixed(3)
    size = write(path, arrays).bytes
    if not overwrite:
        path.unlink()
    true_fsync, true_compare = os.fsync, writer._compare_with_disk

    def fsync(fd: int) -> None:
        found = os.fstat(fd)
        is_folder = stat.S_ISDIR(found.st_mode)
        events.append("folder synced" if is_folder else f"file synced, {found.st_size} bytes")
        true_fsync(fd)

    def named(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            events.append("named")
            return real(*arguments)

        return call

    def compare(*arguments: Any) -> None:
        events.append("read back")
        true_compare(*arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(writer, "_compare_with_disk", compare)
    monkeypatch.setattr(os, "link", named(os.link))
    monkeypatch.setattr(Path, "replace", named(Path.replace))
    write(path, arrays, overwrite=overwrite, check=lambda _: events.append("checked"))
    assert events == [f"file synced, {size} bytes", "read back", "checked", "named", "folder synced"]


def test_what_is_read_back_comes_from_the_disk(tmp_path, monkeypatch):
    """Else the comparison would be one of the page cache with itself."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise")
    dropped: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, *rest: dropped.append(rest))
    write(tmp_path / "x.safetensors", mixed(1))
    assert dropped == [(0, 0, os.POSIX_FADV_DONTNEED)]
