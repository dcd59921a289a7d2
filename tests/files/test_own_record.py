"""The records of images in a file: read, put in, shown; and any other record is unreadable, never an error."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.errors import OutputError
from lib_resize.files.effect_record import EffectRecord
from lib_resize.files.header import TensorSpec, read_header
from lib_resize.files.metadata import RECORD, FitRecord
from lib_resize.files.own_record import ImageRecords, image_records, with_effect
from lib_resize.files.recording import copy_with_effect
from lib_resize.files.writer import write_safetensors
from lib_resize.studies.inspection import describe
from lib_resize.studies.record_text import record_lines

PROMPT = "0123456789abcdef"
EFFECT = EffectRecord(0.9784, 0.961, 4, "Euler a", 20, 832, 1216, "latents", PROMPT)
FIT = FitRecord(4, 4, PROMPT, 771, {"unet": (0.357, 0.241)})


def metadata(**parts: Any) -> dict[str, str]:
    return {"other": "text", RECORD: json.dumps({"version": "1", "source": "a", **parts})}


# Reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fit", [None, FIT, replace(FIT, layers=0), replace(FIT, errors={"unet": (0.3, 0.4), "te": (0.2, 0.1)})]
)
@pytest.mark.parametrize("effect", [None, EFFECT, replace(EFFECT, sampler=None, steps=None, kept=-2.5, basis="pixels")])
def test_what_is_written_is_read(fit: FitRecord | None, effect: EffectRecord | None) -> None:
    parts = {"fit": fit and fit.as_json(), "effect": effect and effect.as_json()}
    assert image_records(metadata(**parts)) == ImageRecords(fit, effect)


@pytest.mark.parametrize("text", ["", "7", "[]", "{", "null", '{"effect": 1', "[" * 100_000, '{"a":' * 5000])
def test_a_file_without_a_record_has_none(text: str) -> None:
    assert image_records({RECORD: text}) == ImageRecords()
    assert image_records({}) == ImageRecords()


ODD: list[Any] = [
    None, True, -1, 1.5, 10**30, 10**400, math.nan, math.inf, -math.inf, "", "x" * 10**5, "\x1b[31m", [], {}, [1],
    {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=[str(at) for at in range(len(ODD))])
@pytest.mark.parametrize("field", sorted(EFFECT.as_json()))
def test_an_odd_value_never_raises_and_is_shown_on_safe_lines(field: str, value: Any) -> None:
    records = image_records(metadata(effect={**EFFECT.as_json(), field: value}))
    assert (records.effect is None) == (records.unreadable == ("effect",))
    (line,) = record_lines(records)
    assert len(line) < 300
    assert line.isprintable()
    if field in ("kept", "worst", "seeds", "width", "height", "basis", "prompt"):
        may = value == -1 and field in ("kept", "worst")
        assert (records.effect is not None) == may
    if field == "sampler":
        assert (records.effect is not None) == (value is None or (isinstance(value, str) and len(value) < 100))


@pytest.mark.parametrize("value", ODD, ids=[str(at) for at in range(len(ODD))])
@pytest.mark.parametrize("field", sorted(FIT.as_json()))
def test_the_same_of_a_fit(field: str, value: Any) -> None:
    records = image_records(metadata(fit={**FIT.as_json(), field: value}))
    assert (records.fit is None) == (records.unreadable == ("fit",))
    (line,) = record_lines(records)
    assert line.isprintable()
    if field != "errors":
        assert records.fit is None


@pytest.mark.parametrize("value", [1, "text", [], [{}], True, {}, {"kept": 1}])
def test_a_record_of_another_kind_is_unreadable(value: Any) -> None:
    records = image_records(metadata(fit=value, effect=value))
    assert records == ImageRecords(unreadable=("fit", "effect"))
    assert record_lines(records) == [
        "fit: its record in the file is unreadable",
        "effect: its record in the file is unreadable",
    ]


def test_no_mutation_of_a_record_raises() -> None:
    rng = random.Random(7)
    text = metadata(fit=FIT.as_json(), effect=EFFECT.as_json())[RECORD]
    for _ in range(2000):
        at = rng.randrange(len(text))
        changed = text[:at] + rng.choice('{}[]",:0e-.\x00n') * rng.randrange(3) + text[at + rng.randrange(4) :]
        assert all(line.isprintable() for line in record_lines(image_records({RECORD: changed})))


# Words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "line"),
    [
        (
            ImageRecords(effect=EFFECT),
            "keeps 97.8 % of the effect (worst image 96.1 %), 4 images, Euler a, 20 steps, 832 x 1216, measured on "
            f"latents, prompt {PROMPT}",
        ),
        (
            ImageRecords(effect=replace(EFFECT, seeds=1, sampler=None, steps=None, kept=0.99999, basis="pixels")),
            f"keeps 99.9 % of the effect, 1 image, 832 x 1216, measured on pixels, prompt {PROMPT}",
        ),
        (
            ImageRecords(fit=FIT),
            f"fitted to 4 images x 4 steps (771 layers); error 0.241 instead of 0.357; prompt {PROMPT}",
        ),
        (
            ImageRecords(fit=replace(FIT, errors={"unet": (0.3, 0.2), "te": (0.1, 0.4)}, images=1, steps=1, layers=1)),
            "fitted to 1 image x 1 step (1 layer); unet: error 0.2 instead of 0.3; te: plain truncation is kept, with "
            f"error 0.1; prompt {PROMPT}",
        ),
        (
            ImageRecords(fit=replace(FIT, layers=0)),
            "fitted to 4 images x 4 steps, but no layer became better, so the factors are those of plain truncation; "
            f"prompt {PROMPT}",
        ),
    ],
)
def test_the_records_in_words(records: ImageRecords, line: str) -> None:
    assert record_lines(records) == [line]


def test_inspect_shows_them_as_text_and_as_json(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", LoraOptions(rank=2, text_encoders=False))
    plain = describe(path, threads=1)
    assert (plain.fit, plain.effect, plain.unreadable) == (None, None, ())
    assert (plain.as_json()["fit"], plain.as_json()["effect"]) == (None, None)
    found = describe(rewritten(path, metadata(fit=FIT.as_json(), effect=EFFECT.as_json())), threads=1)
    lines = [line.strip() for line in found.as_text().splitlines()]
    assert [line for line in lines if "prompt" in line] == record_lines(ImageRecords(FIT, EFFECT))
    shown = found.as_json()
    assert (shown["fit"], shown["effect"], shown["unreadable"]) == (FIT.as_json(), EFFECT.as_json(), ())
    json.dumps(shown, allow_nan=False)
    bad = describe(rewritten(path, metadata(fit=7)), threads=1)
    assert "fit: its record in the file is unreadable" in bad.as_text()
    assert (bad.fit, bad.as_json()["unreadable"]) == (None, ("fit",))


def rewritten(path: Path, fields: dict[str, str]) -> Path:
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    new = path.with_name("b.safetensors")
    specs = [TensorSpec(name, one.dtype, one.shape) for name, one in header.entries.items()]
    chunks = [data[one.start : one.stop] for one in header.entries.values()]
    write_safetensors(new, specs, fields, chunks, overwrite=True)
    return new


# Putting in --------------------------------------------------------------------------------------------------------


def test_a_figure_replaces_the_one_before_and_leaves_all_other_fields() -> None:
    before = metadata(fit=FIT.as_json(), earlier=[{"source": "é"}], unknown={"a": [1]})
    once = with_effect(before, replace(EFFECT, seeds=1))
    assert once is not None
    twice = with_effect(once, EFFECT)
    assert twice is not None
    assert {**twice, RECORD: ""} == {**before, RECORD: ""}
    assert json.loads(twice[RECORD]) == {**json.loads(before[RECORD]), "effect": EFFECT.as_json()}
    assert with_effect(twice, EFFECT) == twice


@pytest.mark.parametrize("fields", [{}, {RECORD: "{}"}, {RECORD: "7"}, {RECORD: '{"effect": {}}'}])
def test_a_file_that_is_not_ours_gets_none(fields: dict[str, str], tmp_path: Path) -> None:
    assert with_effect(fields, EFFECT) is None
    path = rewritten(write_lora(tmp_path / "a.safetensors", LoraOptions(rank=2, text_encoders=False)), fields)
    with pytest.raises(OutputError, match="was not made by Resize LoRA"):
        copy_with_effect(path, tmp_path / "x.staged", EFFECT)
    assert not (tmp_path / "x.staged").exists()


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "words"), [(_cut, "cut off"), (_flipped, "changed since it was written"), (lambda _: b"", "empty")]
)
def test_a_damaged_file_is_not_copied(tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    path = rewritten(write_lora(tmp_path / "a.safetensors", LoraOptions(rank=2, text_encoders=False)), metadata())
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(OutputError, match=words) as error:
        copy_with_effect(path, tmp_path / ".x.staged", EFFECT)
    assert ".staged" not in str(error.value)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_copy_has_the_same_tensors_and_permissions_and_only_its_record_differs(tmp_path: Path) -> None:
    path = rewritten(write_lora(tmp_path / "a.safetensors", LoraOptions(rank=2, text_encoders=False)), metadata())
    path.chmod(0o640)
    before, staged = path.read_bytes(), tmp_path / "x.staged"
    copied = copy_with_effect(path, staged, EFFECT)
    assert copied is not None
    assert path.read_bytes() == before
    old, new = read_header(path), read_header(staged)
    assert staged.read_bytes()[new.data_start :] == before[old.data_start :]
    assert {**new.metadata, RECORD: ""} == {**old.metadata, RECORD: ""}
    assert image_records(new.metadata).effect == EFFECT
    assert (new.entries, staged.stat().st_mode & 0o777) == (old.entries, 0o640)
    assert [*new.metadata] == [*old.metadata]
    assert copy_with_effect(staged, tmp_path / "y.staged", EFFECT) is None
    assert not (tmp_path / "y.staged").exists()
