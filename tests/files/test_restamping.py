"""A file under another name: the same tensors, and a record with what became known later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_resize.errors import OutputError
from lib_resize.files.effect_record import EffectRecord
from lib_resize.files.header import MODEL_HASH, TensorSpec, file_order, read_header
from lib_resize.files.metadata import RECORD
from lib_resize.files.reader import SafeFile
from lib_resize.files.restamping import WrittenTensors
from lib_resize.files.writer import write_safetensors

EFFECT = EffectRecord(0.98123, 0.97, 4, "Euler", 20, 64, 64, "latents", "0" * 16)
DATA = {
    ("a.lora_up.weight", "F8_E4M3", (3, 2)): bytes(range(6)),
    ("a.lora_down.weight", "BF16", (2, 2)): bytes(range(100, 108)),
    ("a.alpha", "F32", ()): b"\0\0\x80\x3f",
}
RECORDED = {"version": "1", "recipe": "size=1", "fit": {"images": 4}, "earlier": [{"version": "0"}]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    specs = [TensorSpec(*key) for key in DATA]
    metadata = {"ss_output_name": "trial", "ss_tag": "é", RECORD: json.dumps(RECORDED)}
    chunks = [DATA[spec.name, spec.dtype, spec.shape] for spec in file_order(specs)]
    return write_safetensors(tmp_path / "trial.safetensors", file_order(specs), metadata, chunks).path


def test_the_tensors_are_the_same_and_the_record_has_the_figure(source: Path, tmp_path: Path) -> None:
    tensors, steps = WrittenTensors.of(source), list[int]()
    metadata = tensors.stamped("new", EFFECT)
    written = tensors.write(tmp_path / "new.safetensors", metadata, lambda: steps.append(1))
    assert written.bytes == written.path.stat().st_size == tensors.bytes(metadata)
    assert len(steps) == len(DATA)
    with SafeFile(source) as one, SafeFile(written.path) as other:
        for (name, dtype, shape), data in DATA.items():
            assert (other.header.entries[name].dtype, other.header.entries[name].shape) == (dtype, shape)
            assert bytes(one.bytes(name)) == bytes(other.bytes(name)) == data
        found = other.header.metadata
        assert found[MODEL_HASH] == one.header.metadata[MODEL_HASH] == tensors.hash
    assert (found["ss_output_name"], found["ss_tag"]) == ("new", "é")
    assert json.loads(found[RECORD]) == {**RECORDED, "effect": EFFECT.as_json()}
    assert "effect" not in json.loads(tensors.stamped("new", None)[RECORD])


def test_tensors_that_changed_since_they_were_written_are_not_copied(source: Path, tmp_path: Path) -> None:
    data = bytearray(source.read_bytes())
    data[read_header(source).data_start] ^= 1
    source.write_bytes(data)
    tensors = WrittenTensors.of(source)
    with pytest.raises(OutputError, match="its tensors changed since it was written"):
        tensors.write(tmp_path / "new.safetensors", tensors.stamped("new", EFFECT), lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["trial.safetensors"]


def test_a_file_that_is_there_is_not_replaced_and_a_stop_leaves_nothing(source: Path, tmp_path: Path) -> None:
    tensors = WrittenTensors.of(source)
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    with pytest.raises(OutputError):
        tensors.write(there, tensors.stamped("there", None), lambda: None)
    assert there.read_bytes() == b"mine"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensors.write(tmp_path / "new.safetensors", tensors.stamped("new", None), stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.safetensors", "trial.safetensors"]
