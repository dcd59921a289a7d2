"""Headers that say the same of their tensors are examined once, and no other two share anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.errors import DamagedFileError
from lib_resize.files.alike import Alike, Layouts
from lib_resize.files.header import Header, TensorSpec, encode, open_file, read_text
from lib_resize.files.reader import SafeFile

UP, DOWN, ALPHA = (
    f"lora_unet_mid_block_attentions_0_proj_in.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")
)


def specs(rank: int = 2, names: tuple[str, str, str] = (UP, DOWN, ALPHA), dtype: str = "F16") -> list[TensorSpec]:
    return [
        TensorSpec(names[0], dtype, (8, rank)),
        TensorSpec(names[1], dtype, (rank, 8)),
        TensorSpec(names[2], "F32", ()),
    ]


def written(
    path: Path, tensors: list[TensorSpec], metadata: dict[str, str] | None = None, alpha: bytes = b"\0\0\x80?"
) -> Path:
    """Write a file of ones, with an alpha of 1 if no other is given."""
    size = sum(one.nbytes for one in tensors)
    path.write_bytes(encode(tensors, metadata) + b"\0\x3c" * ((size - 4) // 2) + alpha)
    return path


def test_files_that_differ_in_metadata_alone_share_entries_and_what_was_found_from_them(tmp_path: Path) -> None:
    layouts, asked = Layouts(), []
    for number in range(3):
        path = written(tmp_path / f"{number}.safetensors", specs(), {"ss_output_name": "x" * number, "n": str(number)})
        with SafeFile(path, layouts) as file, SafeFile(path) as alone:
            assert file.header == alone.header
            assert file.header.metadata["n"] == str(number)
            assert file.header.data_start == alone.header.data_start
            assert file.bits(UP).tobytes() == alone.bits(UP).tobytes()
            asked.append(file.header.layout)
    assert asked[0] is asked[1] is asked[2]


@pytest.mark.parametrize(
    "other",
    [specs(rank=3), specs(dtype="BF16"), specs(names=(UP, DOWN, f"{ALPHA}s")), [specs()[1], specs()[0], specs()[2]]],
    ids=["shape", "dtype", "name", "order"],
)
def test_files_that_differ_in_one_entry_share_nothing(tmp_path: Path, other: list[TensorSpec]) -> None:
    layouts = Layouts()
    paths = [
        written(tmp_path / "a.safetensors", specs(), {"a": "b"}),
        written(tmp_path / "b.safetensors", other, {"a": "b"}),
    ]
    found = []
    for path in paths:
        with SafeFile(path, layouts) as file, SafeFile(path) as alone:
            assert file.header == alone.header
            assert list(file.header.entries) == list(alone.header.entries)
            found.append(file.header.layout)
    assert found[0] is not found[1]


def test_a_file_that_is_longer_or_cut_off_is_refused_after_a_whole_one_of_the_same_header(tmp_path: Path) -> None:
    layouts = Layouts()
    whole = written(tmp_path / "whole.safetensors", specs(), {"a": "b"})
    SafeFile(whole, layouts).close()
    for name, data in (("cut", whole.read_bytes()[:-1]), ("long", whole.read_bytes() + b"\0")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(DamagedFileError):
            SafeFile(path, layouts)


def test_what_depends_on_metadata_is_found_again_where_the_metadata_differs(tmp_path: Path) -> None:
    names = ("flux", "sdxl_base_v1-0")
    paths = [written(tmp_path / f"{name}.safetensors", specs(), {"ss_base_model_version": name}) for name in names]
    layouts = Layouts()
    for path in (*paths, *paths):
        with SafeFile(path, layouts) as file, SafeFile(path) as alone:
            assert read_adapter(file).family == read_adapter(alone).family


def test_scales_are_those_of_each_file(tmp_path: Path) -> None:
    """Alphas are numbers in the file, and a configuration is in its metadata or its folder."""
    bare = [
        TensorSpec(f"unet.mid_block.attentions.0.proj_in.lora_{end}.weight", "F16", shape)
        for end, shape in (("B", (8, 2)), ("A", (2, 8)))
    ]
    config = json.dumps({"unet.lora_alpha": 6, "unet.r": 2})
    files = [
        (written(tmp_path / "one.safetensors", specs(), {"a": "1"}), 0.5),
        (written(tmp_path / "four.safetensors", specs(), {"a": "2"}, alpha=b"\0\0\x80@"), 2.0),
        (written(tmp_path / "plain.safetensors", bare, {"a": "3"}, alpha=b"\0\x3c\0\x3c"), 1.0),
        (written(tmp_path / "config.safetensors", bare, {"lora_adapter_metadata": config}, alpha=b"\0\x3c\0\x3c"), 3.0),
    ]
    layouts = Layouts()
    for path, scale in (*files, *files):
        with SafeFile(path, layouts) as file:
            adapter = read_adapter(file)
            assert [layer.form.scale for layer in adapter.layers] == [scale]
            assert adapter.name == path.stem
            assert adapter.files[0] is file


def test_only_the_last_layouts_are_kept(tmp_path: Path) -> None:
    layouts = Layouts(most=2)
    paths = [written(tmp_path / f"{rank}.safetensors", specs(rank), {"a": "b"}) for rank in (1, 2, 3)]

    def layout(path: Path) -> Any:
        with SafeFile(path, layouts) as file:
            return file.header.layout

    first, second, _ = (layout(path) for path in (paths[0], paths[1], paths[0]))
    assert layout(paths[0]) is first
    third = layout(paths[2])  # the second was used longest ago
    assert layout(paths[0]) is first
    assert layout(paths[2]) is third
    assert layout(paths[1]) is not second


def test_of_each_question_a_layout_keeps_the_last_result(tmp_path: Path) -> None:
    with SafeFile(written(tmp_path / "a.safetensors", specs())) as file:
        layout = file.header.layout
    assert layout.found("question") is None
    assert layout.keep("question", "first", "a") == "first"
    assert [layout.found("question", given) for given in ("a", "b", None)] == ["first", None, None]
    assert layout.keep("question", "second", "b") == "second"
    assert [layout.found("question", given) for given in ("a", "b")] == [None, "second"]
    assert layout.found("another", "b") is None


def test_hints_of_the_metadata_are_part_of_what_a_header_says(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / f"{i}.safetensors", specs(), {"hint": hint, "i": str(i)}) for i, hint in enumerate("aab")
    ]
    alike: Alike[str] = Alike(most=9)
    examined: list[str] = []

    def examine(header: Header) -> str:
        examined.append(header.metadata["i"])
        return header.metadata["hint"]

    for path in paths:
        with open_file(path) as stream:
            found, metadata = alike.of(read_text(stream, path), path, examine, lambda metadata: metadata["hint"])
        assert found == metadata["hint"]
        assert metadata["i"] == path.stem
    assert examined == ["0", "2"]
