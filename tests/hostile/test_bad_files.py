"""Every bad file is refused by name, quickly, in one sentence that begins with its path."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from lib_resize.errors import DamagedFileError, FileError, UnsupportedError
from lib_resize.files import header_json
from lib_resize.files.header import read_header
from lib_resize.files.reader import SafeFile

Maker = Callable[[], bytes]


def whole(header: Any, data: bytes = b"") -> bytes:
    """A file with this header, given as JSON text or as what it describes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(start: int = 0, stop: float = 8, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [2, 2], "data_offsets": [start, stop], **changes}


def pair(first: dict[str, Any], second: dict[str, Any], nbytes: int = 16) -> bytes:
    return whole({"first": first, "second": second}, bytes(nbytes))


def pickled_tensor() -> bytes:
    return pickle.dumps({"lora_unet.weight": [0.0] * 100}, protocol=2)


def torch_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled_tensor())
    return stream.getvalue()


def deep_header() -> bytes:
    return whole(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


def endless_number() -> bytes:
    return whole(b'{"a":{"dtype":"F16","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}', bytes(8))


def many_dimensions() -> bytes:
    return whole({"a": entry(shape=[10**18] * 100_000)}, bytes(8))


GOOD = whole({"a": entry()}, bytes(8))

DAMAGED: dict[str, tuple[Maker, str]] = {
    "empty": (lambda: b"", r"empty \(0 bytes\)"),
    "seven bytes": (lambda: b"\x08" + bytes(6), "has 7 bytes; expected at least the 8 bytes"),
    "length alone": (lambda: bytes(8), "the header begins with b''"),
    "zeros": (lambda: bytes(4096), "the header begins with"),
    "huge header": (lambda: (100_000_001).to_bytes(8, "little") + b"{", "claims 100000001 bytes; expected at most"),
    "absurd header": (lambda: b"\xff" * 8 + b"{}", "claims 18446744073709551615 bytes"),
    "header beyond the file": (lambda: (200).to_bytes(8, "little") + b'{"a":1}', "claims 200 bytes, the file has 15"),
    "cut in the header": (lambda: GOOD[:20], "this one is cut off"),
    "cut in the data": (lambda: GOOD[:-3], "cut off: 3 bytes are missing of 8"),
    "no data": (lambda: GOOD[:-8], "cut off: 8 bytes are missing"),
    "one byte more": (lambda: GOOD + b"\0", "1 bytes after the last tensor"),
    "a second file behind": (lambda: GOOD + GOOD, "after the last tensor"),
    "not UTF-8": (lambda: whole(b'{"\xff":1}'), r"not UTF-8 \(byte 10 of the file\)"),
    "UTF-16": (lambda: whole('{"a":1}'.encode("utf-16-le")), "not JSON"),
    "not JSON": (lambda: whole(b"{nonsense}"), "not JSON"),
    "half JSON": (lambda: whole(b'{"a":{"dtype":"F16"'), "not JSON"),
    "JSON and more": (lambda: whole(b'{}{"a":1}'), "not JSON"),
    "padded with NUL": (lambda: whole(b"{}\0\0"), "not JSON"),
    "an array": (lambda: whole(b"[1, 2]"), "the header begins with b'\\['"),
    "byte order mark": (lambda: whole(b"\xef\xbb\xbf{}"), "the header begins with"),
    "a tensor twice": (lambda: whole(b'{"a":' + json.dumps(entry()).encode() + b',"a":null}', bytes(8)), "'a' twice"),
    "a field twice": (lambda: whole(b'{"a":{"dtype":"F16","dtype":"F32"}}'), "'dtype' twice"),
    "metadata twice": (lambda: whole(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' twice"),
    "deep nesting": (deep_header, "nested too deeply"),
    "half a surrogate pair": (
        lambda: whole(b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", bytes(8)),
        "surrogate",
    ),
    "half a surrogate pair in metadata": (lambda: whole(b'{"__metadata__":{"a":"\\udc00"}}'), "surrogate"),
    "NaN as shape": (
        lambda: whole(b'{"a":{"dtype":"F16","shape":[NaN],"data_offsets":[0,0]}}'),
        "NaN is not a JSON number",
    ),
    "metadata is a list": (lambda: whole({"__metadata__": ["a"]}), "__metadata__ is list"),
    "metadata holds a number": (lambda: whole({"__metadata__": {"rank": 4}}), "'rank' is int; expected a text"),
    "metadata holds null": (lambda: whole({"__metadata__": {"rank": None}}), "'rank' is NoneType"),
    "metadata holds an object": (lambda: whole({"__metadata__": {"args": {}}}), "'args' is dict"),
    "tensor is null": (lambda: whole({"a": None}), "'a' is described by NoneType"),
    "tensor is a list": (lambda: whole({"a": [1]}), "'a' is described by list"),
    "no dtype": (lambda: whole({"a": {"shape": [1], "data_offsets": [0, 2]}}), "has the fields"),
    "no shape": (lambda: whole({"a": {"dtype": "F16", "data_offsets": [0, 2]}}), "has the fields"),
    "no offsets": (lambda: whole({"a": {"dtype": "F16", "shape": [1]}}), "has the fields"),
    "unknown dtype": (lambda: whole({"a": entry(dtype="F13")}, bytes(8)), "unknown dtype 'F13'; expected one of BOOL"),
    "lower-case dtype": (lambda: whole({"a": entry(dtype="f16")}, bytes(8)), "unknown dtype 'f16'"),
    "dtype is a number": (lambda: whole({"a": entry(dtype=16)}, bytes(8)), "unknown dtype 16"),
    "dtype is a list": (lambda: whole({"a": entry(dtype=["F16"])}, bytes(8)), "unknown dtype"),
    "shape is a number": (lambda: whole({"a": entry(shape=4)}, bytes(8)), "has the shape 4"),
    "shape is an object": (lambda: whole({"a": entry(shape={})}, bytes(8)), "has the shape"),
    "negative size": (lambda: whole({"a": entry(shape=[-2, -2])}, bytes(8)), r"has the shape \[-2, -2\]"),
    "fractional size": (lambda: whole({"a": entry(shape=[2.0, 2])}, bytes(8)), r"has the shape \[2.0, 2\]"),
    "size is true": (lambda: whole({"a": entry(shape=[True, 4])}, bytes(8)), r"has the shape \[True, 4\]"),
    "size is a text": (lambda: whole({"a": entry(shape=["2", 2])}, bytes(8)), "has the shape"),
    "size of 10000 digits": (endless_number, "not JSON|has 8 bytes by its offsets; expected far more"),
    "a hundred thousand dimensions": (many_dimensions, "at most 32"),
    "nothing times too much": (
        lambda: whole({"a": entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])}),
        "fit in memory",
    ),
    "one offset": (lambda: whole({"a": entry(data_offsets=[0])}, bytes(8)), "two rising whole numbers"),
    "three offsets": (lambda: whole({"a": entry(data_offsets=[0, 4, 8])}, bytes(8)), "two rising whole numbers"),
    "offsets fall": (lambda: whole({"a": entry(8, 0)}, bytes(8)), "two rising whole numbers"),
    "negative offset": (lambda: whole({"a": entry(-8, 0)}, bytes(8)), "two rising whole numbers"),
    "fractional offset": (lambda: whole({"a": entry(0, 8.0)}, bytes(8)), "two rising whole numbers"),
    "size mismatch": (
        lambda: whole({"a": entry(0, 6)}, bytes(6)),
        r"has 6 bytes by its offsets; expected 8 \(F16 \[2, 2\]\)",
    ),
    "overlap": (lambda: pair(entry(0, 8), entry(4, 12), 12), "'second' overlaps tensor 'first'"),
    "the same bytes twice": (lambda: pair(entry(0, 8), entry(0, 8), 8), "overlaps"),
    "one inside the other": (lambda: pair(entry(0, 16, shape=[2, 4]), entry(4, 12)), "overlaps"),
    "hole": (lambda: pair(entry(0, 8), entry(10, 18), 18), "2 bytes before tensor 'second' belong to no tensor"),
    "hole at the start": (lambda: whole({"a": entry(8, 16)}, bytes(16)), "8 bytes before tensor 'a'"),
    "offsets far beyond": (lambda: whole({"a": entry(2**60, 2**60 + 8)}, bytes(8)), "cut off"),
    "Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "Git LFS pointer",
    ),
    "web page": (lambda: b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "web page, spaced": (lambda: b"\r\n  <HTML>\n<head></head></HTML>", "web page"),
    "JSON error message": (
        lambda: b'{"error":"Unauthorized","message":"log in"}',
        "error message of a failed download",
    ),
}
"""Name of the fault: what makes it, and words of the message."""

UNSUPPORTED: dict[str, tuple[Maker, str]] = {
    "pickle": (pickled_tensor, "run any code.*checkpoint merger"),
    "newest pickle": (lambda: pickle.dumps({"a": 1}, protocol=5), "run any code"),
    "PyTorch zip": (torch_zip, "run any code.*checkpoint merger"),
    "GGUF": (lambda: b"GGUF" + bytes(100), "GGUF"),
    "packed dtype": (lambda: whole({"a": entry(dtype="F4", shape=[16])}, bytes(8)), "packed dtype F4"),
}


@functools.cache
def _sound_header_cost() -> float:
    """CPU seconds to parse the JSON of a header with 3,000 tensors: what a refusal is measured by."""
    text = json.dumps({f"lora_unet_some_long_name_{i}": entry() for i in range(3000)})
    start = time.process_time()
    json.loads(text)
    return time.process_time() - start


def refuse(path: Path, kind: type[FileError], words: str) -> None:
    for reader in (read_header, SafeFile):
        start = time.process_time()
        with pytest.raises(FileError, match=words) as caught:
            reader(path)
        assert time.process_time() - start < 200 * _sound_header_cost()
        assert caught.type is kind
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < 700 + len(str(path))
        assert "expected" in message or kind is not DamagedFileError


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_is_refused_by_its_fault(tmp_path, fault):
    make, words = DAMAGED[fault]
    path = tmp_path / "bad 文件.safetensors"
    path.write_bytes(make())
    refuse(path, DamagedFileError, words)


@pytest.mark.parametrize("kind", UNSUPPORTED)
@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_another_kind_of_file_is_known_by_its_content(tmp_path, kind, name):
    make, words = UNSUPPORTED[kind]
    path = tmp_path / name
    path.write_bytes(make())
    refuse(path, UnsupportedError, words)


def test_the_good_file_that_the_bad_ones_are_made_of_is_good(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    assert list(read_header(path).entries) == ["a"]


def test_a_torch_file_is_refused_without_being_unpickled(tmp_path):
    torch = pytest.importorskip("torch")
    for old in (False, True):
        path = tmp_path / f"old_{old}.safetensors"
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=not old)
        refuse(path, UnsupportedError, "run any code")


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    refuse(tmp_path / "absent.safetensors", FileError, "no such file")
    refuse(tmp_path, FileError, "a folder")
    refuse(tmp_path / "absent" / "x.safetensors", FileError, "no such file")
    refuse(tmp_path / ("n" * 300), FileError, "cannot be opened")
    with pytest.raises(FileError, match="cannot be opened"):
        read_header(tmp_path / "a\x00b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refuse(tmp_path / "pipe", FileError, "a pipe or a device")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user who can be denied")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    path.chmod(0)
    refuse(path, FileError, "no permission to read")


def test_a_file_that_may_not_be_read_is_reported_in_plain_words(tmp_path, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(13, "denied")

    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(FileError, match="no permission to read"):
        read_header(path)


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_or_cut_header_is_read_or_refused_but_never_crashes(tmp_path, data):
    raw = bytearray(whole({"__metadata__": {"k": "v"}, "a": entry(), "b": entry(8, 16)}, bytes(16)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 17))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except FileError:
        return
    for name, found in header.entries.items():
        with SafeFile(path) as file:
            assert file.bits(name).shape == found.shape


def test_what_the_library_refuses_we_refuse_too(tmp_path):
    path = tmp_path / "x.safetensors"
    lenient = []
    for fault, (make, _) in {**DAMAGED, **UNSUPPORTED}.items():
        path.write_bytes(make())
        try:
            with safe_open(str(path), framework="numpy"):
                lenient.append(fault)
        except (SafetensorError, ValueError, OSError):
            pass
    # Only these pass the library: they would lose something, cannot be held, or break the written format.
    assert set(lenient) <= {
        "a tensor twice",
        "metadata twice",
        "a hundred thousand dimensions",
        "nothing times too much",
        "packed dtype",
    }


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    true_fstat = os.fstat

    class Stat:
        st_size = 10_000

    raw = (5000).to_bytes(8, "little") + b'{"a":1}'
    path.write_bytes(raw)
    monkeypatch.setattr("lib_resize.files.header.os.fstat", lambda _: Stat)
    with pytest.raises(DamagedFileError, match="shrank"):
        read_header(path)
    monkeypatch.setattr("lib_resize.files.header.os.fstat", true_fstat)
    np.testing.assert_raises(DamagedFileError, read_header, path)


NUMBER = "9" * 400
COSTLY = {
    "a key twice among many": lambda: whole(
        b"{" + b",".join(b'"k%07d":0' % i for i in [*range(20_000), 19_999]) + b"}"
    ),
    "many keys twice": lambda: whole(b"{" + b",".join(b'"k%07d":0' % (i % 9000) for i in range(18_000)) + b"}"),
    "metadata of many twice": lambda: whole(
        b'{"__metadata__":{' + b",".join(b'"k%07d":""' % (i % 9000) for i in range(18_000)) + b'},"a":0}'
    ),
    "a name of a million letters": lambda: whole(b'{"' + b"n" * 1_000_000 + b'":{}}'),
    "a million sizes": lambda: whole(
        b'{"a":{"dtype":"F16","shape":[' + b"1," * 1_000_000 + b'1],"data_offsets":[0,8]}}', bytes(8)
    ),
    "sizes of 400 digits": lambda: whole({"a": entry(0, int(NUMBER), shape=[int(NUMBER)] * 32)}, bytes(8)),
    "an offset of 400 digits": lambda: whole({"a": entry(int(NUMBER), int(NUMBER) + 8)}, bytes(8)),
    "numbers of 5,000 digits": lambda: whole(b'{"a":' + b"9" * 5000 + b"}"),
    "a number of a million digits": lambda: whole(b'{"a":' + b"9" * 1_000_000 + b"}"),
    "blanks alone": lambda: whole(b" " * 20_000_000),
    "a shape that is nested": lambda: whole(
        b'{"a":{"dtype":"F16","shape":' + b"[" * 900 + b"]" * 900 + b',"data_offsets":[0,8]}}', bytes(8)
    ),
}


@pytest.mark.parametrize("case", COSTLY)
def test_no_header_costs_more_than_linear_time(tmp_path, case):
    """Each of these is refused in a short line, in little more time than its bytes take to be parsed."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(COSTLY[case]())
    refuse(path, DamagedFileError, "expected")


def test_a_number_of_many_digits_is_refused_by_old_pythons_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(header_json, "_PARSE_INT", header_json._whole_number)
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole(b'{"a":' + b"9" * 200_000 + b"}"))
    refuse(path, DamagedFileError, "200000 digits")
    path.write_bytes(whole({"a": entry()}, bytes(8)))
    assert list(read_header(path).entries) == ["a"]


@pytest.mark.parametrize("lead", [b"", b" ", b"\n\t\r ", b" " * 1000])
def test_what_the_library_reads_is_read(tmp_path, lead):
    """Blanks before the header, and a metadata field that is there twice: the last one counts."""
    text = b'{"__metadata__":{"a":"1","b":"2","a":"3"},"t":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole(lead + text, b"12345678"))
    with safe_open(str(path), framework="numpy") as theirs:
        assert theirs.metadata() == {"a": "3", "b": "2"}
        assert list(theirs.keys()) == ["t"]
    with SafeFile(path) as ours:
        assert ours.header.metadata == {"a": "3", "b": "2"}
        assert ours.bytes("t") == b"12345678"
