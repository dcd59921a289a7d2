"""Laws of the header: what we read is what the library wrote, and what we write is what it would have written."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from lib_resize.errors import DamagedFileError, OutputError, UnsupportedError
from lib_resize.files import header_entries
from lib_resize.files.header import DTYPE_BYTES, TensorEntry, TensorSpec, encode, file_order, read_header
from lib_resize.files.header_json import parse_object

NUMPY_NAMES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
}
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
tensors = st.dictionaries(names, st.tuples(st.sampled_from(sorted(NUMPY_NAMES)), shapes), max_size=8)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
one_field = st.one_of(st.none(), st.dictionaries(texts, texts, max_size=1))


def specs_of(described: dict[str, tuple[str, tuple[int, ...]]]) -> list[TensorSpec]:
    return file_order(TensorSpec(name, dtype, shape) for name, (dtype, shape) in described.items())


def arrays_of(described: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, NUMPY_NAMES[dtype]) for name, (dtype, shape) in described.items()}


@given(tensors, one_field)
@settings(max_examples=150)
def test_encoded_header_has_the_bytes_of_the_library(described, metadata):
    assume(described or metadata is None)  # of metadata alone, the library makes a broken header
    written = save(arrays_of(described), metadata)
    assert written.startswith(encode(specs_of(described), metadata))


@given(tensors, st.dictionaries(texts, texts, max_size=4))
@settings(max_examples=80)
def test_reading_gives_back_what_the_library_wrote(tmp_path_factory, described, metadata):
    assume(described)
    path = tmp_path_factory.mktemp("read") / "x.safetensors"
    save_file(arrays_of(described), path, metadata)
    header = read_header(path)
    assert {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()} == described
    assert header.metadata == metadata
    assert header.file_bytes == path.stat().st_size
    assert sum(entry.stop - entry.start for entry in header.entries.values()) == header.file_bytes - header.data_start


def test_every_pair_of_dtypes_is_in_the_order_of_the_library():
    torch = pytest.importorskip("torch")
    from safetensors.torch import save as save_torch

    known = {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu",
        "I16": "int16",
        "U16": "uint16",
        "F16": "float16",
        "BF16": "bfloat16",
        "I32": "int32",
        "U32": "uint32",
        "F32": "float32",
        "C64": "complex64",
        "F64": "float64",
        "I64": "int64",
        "U64": "uint64",
    }
    there = {}
    for name, torch_name in known.items():
        try:
            there[name] = torch.zeros(1, dtype=getattr(torch, torch_name))
            save_torch({"x": there[name]})
        except (AttributeError, KeyError, TypeError, ValueError):
            there.pop(name, None)  # a torch or safetensors too old for this dtype
    assert {"F16", "BF16", "F32", "I64", "BOOL"} <= there.keys()
    for first, second in itertools.product(there, repeat=2):
        written = save_torch({"a": there[first], "b": there[second].clone()})
        specs = [TensorSpec("a", first, (1,)), TensorSpec("b", second, (1,))]
        assert written.startswith(encode(file_order(specs))), (first, second)


def test_names_of_one_dtype_are_ordered_by_code_point():
    specs = [TensorSpec(name, "F16", (1,)) for name in ("b", "中", "a", "B", "a.10", "a.9", "", "\U0001f600", "￿")]
    written = save({spec.name: np.zeros(1, np.float16) for spec in specs})
    assert written.startswith(encode(file_order(specs)))


def test_offsets_are_within_the_tensor_region(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"half": np.zeros((2, 3), np.float16), "wide": np.zeros(4, np.float64)}, path)
    header = read_header(path)
    assert header.entries["wide"] == TensorEntry("F64", (4,), 0, 32)
    assert header.entries["half"] == TensorEntry("F16", (2, 3), 32, 44)
    assert header.data_start + 44 == header.file_bytes


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "a\x00b", "C:\\x", "", "\\\\host\\share"])
def test_a_tensor_name_may_be_any_text(tmp_path, name):
    path = tmp_path / "x.safetensors"
    save_file({name: np.zeros(1, np.float32)}, path)
    assert list(read_header(path).entries) == [name]


def test_a_file_without_tensors_is_whole(tmp_path):
    path = tmp_path / "空 白.safetensors"
    path.write_bytes(encode([]))
    assert read_header(path).entries == {}


def test_unknown_fields_of_an_entry_are_no_fault(tmp_path):
    raw = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":{"x":1.5}}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0")
    assert list(read_header(path).entries) == ["a"]


@pytest.mark.parametrize("length", [0x80, 0x280, 0x380, 0x480, 0x580])
def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path, length):
    raw = b'{"__metadata__":{"k":"' + b"x" * (length - 25) + b'"}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw.ljust(length))
    assert len(raw) == length
    assert read_header(path).metadata["k"][:1] == "x"


@pytest.mark.parametrize(
    ("specs", "metadata", "words"),
    [
        ([TensorSpec("a", "F16", (1,)), TensorSpec("a", "F16", (2,))], None, "'a' is taken"),
        ([TensorSpec("__metadata__", "F16", (1,))], None, "is taken"),
        ([TensorSpec("\ud800", "F16", (1,))], None, "UTF-8"),
        ([], {"key": "\udfff"}, "UTF-8"),
        ([], {"key": 3}, "'key' is int"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(specs, metadata, words):
    with pytest.raises(OutputError, match=words):
        encode(specs, metadata)


def test_a_header_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr("lib_resize.files.header.MAX_HEADER_BYTES", 100)
    with pytest.raises(OutputError, match="the format allows 100"):
        encode([], {"key": "x" * 100})


def test_every_dtype_has_a_width_of_whole_bytes():
    for dtype, width in DTYPE_BYTES.items():
        assert TensorSpec("x", dtype, (3, 5)).nbytes == 15 * width
        assert TensorSpec("x", dtype, ()).nbytes == width
        assert TensorSpec("x", dtype, (0, 7)).nbytes == 0


def cpu_seconds(work) -> float:
    """The least of several tries: the one that nobody disturbed."""
    times = []
    for _ in range(9):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def test_reading_3000_tensors_costs_a_few_times_the_bare_json(tmp_path: Path):
    specs = [TensorSpec(f"lora_unet_some_long_name_{i}.weight", "F16", (i % 7, 4)) for i in range(3000)]
    raw = encode(specs)
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw + bytes(sum(spec.nbytes for spec in specs)))
    bare = cpu_seconds(lambda: json.loads(raw[8:]))
    assert cpu_seconds(lambda: read_header(path)) < 8 * bare + 0.002


FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "BOOL", "F99", 3, None, []]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, True, -1, 1.0, "2", 2**40]), max_size=3) | st.just("ab"),
        "data_offsets": st.lists(st.sampled_from([0, 2, 4, 8, 12, True, 1.0, -2]), min_size=1, max_size=3)
        | st.sampled_from(["ab", {"0": 1, "2": 2}, None]),
    },
    optional={"more": st.just(1)},
)


@given(FIELDS)
@settings(max_examples=500)
def test_the_short_way_of_faultless_fields_gives_what_the_checks_give(fields):
    """It may leave any fields to the checks, and accepts none that they refuse."""
    short = header_entries._plain_entry(fields)
    try:
        checked = header_entries._checked_entry(Path("x"), "name", fields)
    except (DamagedFileError, UnsupportedError):
        assert short is None
    else:
        assert short in (None, checked)
        assert short is not None or 0 in checked.shape


def test_a_field_that_is_there_twice_does_not_take_the_short_way():
    fields = parse_object(Path("x"), b'{"a":{"dtype":"F16","dtype":"F16","shape":[1],"data_offsets":[0,2]}}')["a"]
    assert header_entries._plain_entry(fields) is None
