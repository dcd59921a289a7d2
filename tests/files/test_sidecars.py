"""Laws of sidecars: all that are the LoRA's own come along, true, and no file of anyone else is touched."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lib_resize.errors import OutputError
from lib_resize.files.sidecars import SidecarFacts, copy_sidecars, foreign_sidecars

OLD, NEW = "AB" * 32, "cd" * 32
FACTS = SidecarFacts(bytes=2048, sha256=NEW, source_sha256=OLD.lower())
OLD_FACTS = SidecarFacts(bytes=4096, sha256="ef" * 32, modified=12.5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "loras 文件夹"
    folder.mkdir()
    path = folder / "my[style]*.v1.safetensors" if os.name != "nt" else folder / "my[style].v1.safetensors"
    path.write_bytes(b"lora")
    return path


@pytest.fixture
def target(source: Path) -> Path:
    path = source.parent / "small" / "new_名.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"new")
    return path


def put(lora: Path, suffix: str, content: Any) -> Path:
    path = lora.with_name(lora.stem + suffix)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def copied(source: Path, target: Path, suffix: str, content: Any) -> Any:
    """What becomes of one JSON sidecar."""
    put(source, suffix, content)
    assert copy_sidecars(source, target, facts=FACTS) == [target.with_name(target.stem + suffix)]
    return json.loads(target.with_name(target.stem + suffix).read_bytes())


PLAIN = [".txt", ".description.txt", ".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".gif", ".preview.jpeg"]
PLAIN += [".preview.webp", ".preview.gif", ".PNG", ".example.1.png", ".example.12.jpeg", ".preview.mp4"]


@pytest.mark.parametrize("suffix", PLAIN)
def test_a_plain_sidecar_is_copied_byte_for_byte(source, target, suffix):
    put(source, suffix, b"\x00\xff\r\n")
    (new,) = copy_sidecars(source, target, facts=FACTS)
    assert new.name == f"new_名{suffix}"
    assert new.read_bytes() == b"\x00\xff\r\n"


def test_all_are_copied_and_reported(source, target):
    suffixes = [".json", ".txt", ".png", ".civitai.info", ".metadata.json", ".cm-info.json", ".example.0.png"]
    for suffix in suffixes:
        put(source, suffix, {"a": 1})
    written = copy_sidecars(source, target, facts=FACTS)
    assert {path.name for path in written} == {f"new_名{suffix}" for suffix in suffixes}
    assert all(path.is_file() for path in written)
    assert {item.name for item in target.parent.iterdir()} == {target.name, *(path.name for path in written)}


OTHERS = ["2.txt", ".foo.safetensors", ".safetensors", "_2.png", ".foo.txt", ".txt.bak", ".example.x.png", "txt"]
OTHERS += [".example.1.safetensors", ".preview", ".preview.png.txt", ".yaml", ".pt"]


@pytest.mark.parametrize("suffix", OTHERS)
def test_a_name_that_only_begins_alike_is_no_sidecar(source, target, suffix):
    put(source, suffix, b"other")
    assert copy_sidecars(source, target, facts=FACTS) == []


def test_a_folder_of_a_sidecars_name_is_no_sidecar(source, target):
    source.with_name(f"{source.stem}.png").mkdir()
    assert copy_sidecars(source, target, facts=FACTS) == []


def test_a_missing_folder_has_no_sidecars(tmp_path, target):
    assert copy_sidecars(tmp_path / "absent" / "x.safetensors", target, facts=FACTS) == []


@pytest.mark.parametrize("replaced", [None, OLD_FACTS])
@pytest.mark.parametrize("suffix", [".txt", ".json", ".png"])
def test_existing_sidecars_of_others_are_kept(source, target, suffix, replaced):
    put(source, suffix, {"size": 1})
    kept = put(target, suffix, b"the user's own")
    assert copy_sidecars(source, target, facts=FACTS, replaced=replaced) == []
    assert kept.read_bytes() == b"the user's own"
    assert foreign_sidecars(source, target, facts=FACTS) == [kept]


def test_copies_of_ours_are_replaced_with_the_result_that_they_were_made_for(source, target):
    for suffix, content in ((".metadata.json", {"sha256": "0" * 64, "modified": 0.0}), (".txt", b"text")):
        put(source, suffix, content)
    made = copy_sidecars(source, target, facts=OLD_FACTS)
    assert copy_sidecars(source, target, facts=FACTS, replaced=None) == []
    changed = copy_sidecars(source, target, facts=FACTS, replaced=OLD_FACTS)
    assert changed == [path for path in made if path.suffix == ".json"]
    assert json.loads(changed[0].read_bytes())["sha256"] == FACTS.sha256
    assert foreign_sidecars(source, target, facts=FACTS) == []


@pytest.mark.parametrize("symbolic", [False, True])
def test_a_copy_is_not_replaced_where_it_is_a_link(source, target, tmp_path, symbolic):
    put(source, ".json", {"sha256": "0" * 64})
    (made,) = copy_sidecars(source, target, facts=OLD_FACTS)
    if symbolic:
        made = made.rename(tmp_path / "mine.json")
        made_link = target.with_name(f"{target.stem}.json")
        made_link.symlink_to(made)
    else:  # the source's own sidecar under a second name
        made.unlink()
        os.link(source.with_name(f"{source.stem}.json"), made)
    before = made.read_bytes()
    assert copy_sidecars(source, target, facts=FACTS, replaced=OLD_FACTS) == []
    assert made.read_bytes() == before


def test_the_copy_of_one_sidecar_never_replaces_another_of_the_source(tmp_path):
    """A result whose name is the source's with .preview has the source's second picture where its first would be."""
    source, target = tmp_path / "a.safetensors", tmp_path / "a.preview.safetensors"
    put(source, ".png", b"first")
    other = put(source, ".preview.png", b"second")
    for replaced in (None, OLD_FACTS):
        assert other not in copy_sidecars(source, target, facts=FACTS, replaced=replaced)
    assert other.read_bytes() == b"second"


def test_sidecars_of_the_same_name_are_left_alone(source):
    old = put(source, ".metadata.json", {"size": 1})
    for replaced in (None, OLD_FACTS):
        assert copy_sidecars(source, source.with_suffix(".pt"), facts=FACTS, replaced=replaced) == []
    assert json.loads(old.read_bytes()) == {"size": 1}


def test_a_failed_copy_is_reported_after_the_others_were_made(source, target, monkeypatch):
    for suffix in (".png", ".txt"):
        put(source, suffix, b"x")
    true_read = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name.endswith(".png"):
            raise PermissionError(13, "denied")
        return true_read(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(OutputError, match=r"the file is complete, but not all of its sidecars.*\.png"):
        copy_sidecars(source, target, facts=FACTS)
    assert target.with_name("new_名.txt").exists()


USER = {
    "description": "nice",
    "sd version": "SDXL",
    "activation text": "ohwx, 狐",
    "preferred weight": 0.8,
    "negative text": "",
    "notes": "line\nline",
}


def test_user_metadata_without_facts_of_the_file_is_not_even_reformatted(source, target):
    raw = json.dumps(USER, indent=3, ensure_ascii=False).encode() + b"\n\n"
    put(source, ".json", raw)
    (new,) = copy_sidecars(source, target, facts=FACTS)
    assert new.read_bytes() == raw


def manager(source: Path) -> dict[str, Any]:
    return {
        "file_name": source.stem,
        "model_name": "My Style",
        "file_path": source.as_posix(),
        "size": 99,
        "modified": 1.5,
        "sha256": OLD.lower(),
        "base_model": "SDXL 1.0",
        "preview_url": source.with_name(f"{source.stem}.webp").as_posix(),
        "notes": "é",
        "from_civitai": True,
        "civitai": CIVITAI,
        "tags": ["a", {"size": 3}],
        "usage_tips": "{}",
    }


CIVITAI: dict[str, Any] = {
    "id": 7,
    "modelId": 5,
    "name": "v1.0",
    "trainedWords": ["ohwx"],
    "files": [
        {"id": 1, "name": "training.zip", "sizeKB": 5.5, "type": "Training Data", "hashes": {"SHA256": "FF"}},
        {
            "id": 2,
            "name": "original.safetensors",
            "sizeKB": 222000.25,
            "type": "Model",
            "metadata": {"fp": "fp16", "format": "SafeTensor"},
            "hashes": {"AutoV1": "1", "AutoV2": "2", "SHA256": OLD, "BLAKE3": "3", "CRC32": "4"},
            "primary": True,
            "downloadUrl": "https://civitai.com/api/download/models/7",
        },
    ],
    "images": [{"url": "https://image/x.png", "hash": "UABC", "size": 3, "meta": {"hashes": {"lora:x": "1"}}}],
    "stats": {"size": 5, "rating": 4.75},
}


def true_civitai() -> dict[str, Any]:
    """The version's page unchanged, except for the entry of the LoRA's file."""
    expected = copy.deepcopy(CIVITAI)
    expected["files"][1].update(
        name="new_名.safetensors", sizeKB=2.0, metadata={"format": "SafeTensor"}, hashes={"SHA256": NEW.upper()}
    )
    return expected


def test_civitai_info_describes_the_new_file_and_links_to_the_old_page(source, target):
    assert copied(source, target, ".civitai.info", CIVITAI) == true_civitai()


@pytest.mark.parametrize("known", ["hash", "name", "primary", "only"])
def test_the_own_entry_among_several_is_found(source, target, known):
    own = {"name": "renamed.safetensors", "sizeKB": 1.0, "hashes": {"SHA256": "00"}}
    if known == "hash":
        own["hashes"] = {"SHA256": OLD}
    if known == "name":
        own["name"] = source.name
    if known == "primary":
        own["primary"] = True
    others = [] if known == "only" else [{"name": "other.safetensors", "sizeKB": 9.0, "hashes": {"SHA256": "11"}}]
    found = copied(source, target, ".civitai.info", {"files": [*others, own]})
    assert found["files"] == [*others, {**own, "name": target.name, "sizeKB": 2.0, "hashes": {"SHA256": NEW.upper()}}]


def test_manager_metadata_is_true(source, target):
    put(source, ".webp", b"image")
    put(source, ".metadata.json", manager(source))
    copy_sidecars(source, target, facts=FACTS)
    found = json.loads(target.with_name("new_名.metadata.json").read_bytes())
    assert found == {
        **manager(source),
        "file_name": "new_名",
        "file_path": target.as_posix(),
        "size": 2048,
        "modified": target.stat().st_mtime,
        "sha256": NEW,
        "preview_url": target.with_name("new_名.webp").as_posix(),
        "civitai": true_civitai(),
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://image.example/x.png", "https://image.example/x.png"),
        ("", ""),
        ("C:\\loras\\another.png", ""),
        ("C:\\loras\\STEM.gone.png", ""),
    ],
)
def test_a_preview_is_one_that_is_there_or_none(source, target, old, new):
    found = copied(source, target, ".metadata.json", {"preview_url": old.replace("STEM", source.stem)})
    assert found == {"preview_url": new}


def test_a_preview_on_a_windows_path_is_found(source, target):
    put(source, ".preview.png", b"image")
    put(source, ".metadata.json", {"preview_url": f"D:\\models\\{source.stem}.preview.png"})
    copy_sidecars(source, target, facts=FACTS)
    found = json.loads(target.with_name("new_名.metadata.json").read_bytes())
    assert found["preview_url"].endswith("/new_名.preview.png")


def test_stability_matrix_info_is_true(source, target):
    old = {
        "ModelId": 5,
        "VersionName": "v1",
        "FileMetadata": {"fp": "fp32", "size": "pruned", "format": "SafeTensor"},
        "Hashes": {"SHA256": OLD, "BLAKE3": "AA", "CRC32": "BB"},
        "TrainedWords": ["ohwx"],
    }
    assert copied(source, target, ".cm-info.json", old) == {
        **old,
        "FileMetadata": {"size": "pruned", "format": "SafeTensor"},
        "Hashes": {"SHA256": NEW.upper()},
    }


@pytest.mark.parametrize("suffix", [".json", ".metadata.json", ".civitai.info", ".cm-info.json"])
@pytest.mark.parametrize(
    "raw",
    [b"", b"{broken", b"[1, 2]", b"null", b'{"a": "\xff"}', b"[" * 200_000],
    ids=["empty", "broken", "list", "null", "latin", "deep"],
)
def test_damaged_json_is_copied_as_it_is(source, target, suffix, raw):
    put(source, suffix, raw)
    (new,) = copy_sidecars(source, target, facts=FACTS)
    assert new.read_bytes() == raw


@pytest.mark.parametrize("value", [1e16, 0.1, 123456789012345678901234567890, "é\u2028", "\ud83d", True, None, {}, []])
def test_values_of_others_survive_a_rewrite(source, target, value):
    found = copied(source, target, ".metadata.json", {"size": 1, "theirs": value})
    assert found == {"size": 2048, "theirs": value}


def test_the_layout_of_a_rewritten_text_is_kept(source, target):
    put(source, ".json", '{\n    "size": 1,\n    "né": [\n        2\n    ]\n}\n'.encode())
    (new,) = copy_sidecars(source, target, facts=FACTS)
    assert new.read_text(encoding="utf-8") == '{\n    "size": 2048,\n    "né": [\n        2\n    ]\n}\n'


@pytest.mark.parametrize("field", ["hash", "AutoV2", "BLAKE3", "crc32", "md5"])
def test_other_hashes_are_taken_out(source, target, field):
    assert copied(source, target, ".json", {field: "0123", "notes": "x"}) == {"notes": "x"}
