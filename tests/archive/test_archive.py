"""The archive of originals: replace, restore and purge, and everything that can be in the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lib_resize.archive import exchanging, replacing
from lib_resize.archive.entries import entries, entry_of
from lib_resize.archive.journal import Exchange
from lib_resize.archive.links import left_alone
from lib_resize.archive.place import Archive, check_room, default_archive, existing_archive, lora_root, open_archive
from lib_resize.archive.purging import older_than, purge
from lib_resize.archive.recovery import recover
from lib_resize.archive.replacing import Replacement, replace, staged_path
from lib_resize.archive.restoring import restore
from lib_resize.errors import OutputError
from lib_resize.files.header import read_header
from lib_resize.files.metadata import RECORD
from tests.library import Library, contents, made_from, sha256, write_sidecars, write_small_lora


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    return Library(folder, folder / "Resize LoRA archive")


@pytest.fixture
def library(made: Library) -> Library:
    made.fresh()
    return made


# Replace and restore --------------------------------------------------------------------------------------------


def test_replace_then_restore_gives_the_same_bytes_sidecars_included(library: Library) -> None:
    entry = library.replaced("rank=2")
    assert library.state() == "rank=2"
    assert entries(library.archive) == [entry]
    assert entry_of(library.archive, library.lora) == entry
    restored = restore(library.archive, entry)
    assert (restored.path, restored.name, restored.changed) == (library.lora, "ink", ())
    assert library.state() == "original"


def test_the_new_file_keeps_the_alias_and_its_record_is_true(library: Library) -> None:
    library.replaced("rank=2")
    metadata = read_header(library.lora).metadata
    assert metadata["ss_output_name"] == "alias 1"
    record = json.loads(metadata[RECORD])
    assert (record["source"], record["source_sha256"]) == (library.lora.name, sha256(library.original))


def test_hosts_see_a_newer_file_after_each_step(library: Library) -> None:
    os.utime(library.lora, (1e9, 1e9))
    entry = library.replaced("rank=2")
    after = library.lora.stat().st_mtime
    assert after > 1e9
    assert entry.original is not None
    assert entry.original.stat().st_mtime == 1e9
    restore(library.archive, entry)
    assert library.lora.stat().st_mtime >= after


def test_the_new_file_has_the_permissions_of_the_old_one(library: Library) -> None:
    library.lora.chmod(0o640)
    library.replaced("rank=2")
    assert library.lora.stat().st_mode & 0o777 == 0o640


def test_the_archive_can_be_used_by_hand(library: Library) -> None:
    library.replaced("rank=2")
    originals = library.place / "originals" / "Lora" / "style"
    assert (originals / library.lora.name).read_bytes() == library.original
    assert (originals / "ink.civitai.info").read_bytes() == library.first[library.lora.with_name("ink.civitai.info")]
    assert "restore --all" in (library.place / "README.txt").read_text()


def test_a_second_replacement_keeps_the_one_original(library: Library) -> None:
    first = library.replaced("rank=2")
    second = library.replaced("rank=1")
    assert library.state() == "rank=1"
    assert (second.id, second.sha256_before) == (first.id, first.sha256_before)
    restore(library.archive, second)
    assert library.state() == "original"


def test_the_same_file_once_more_changes_nothing(library: Library) -> None:
    entry = library.replaced("rank=2")
    before = contents(library.root, library.place)
    assert library.replaced("rank=2") == entry
    assert contents(library.root, library.place) == before


def test_without_an_original_nothing_is_kept(library: Library) -> None:
    entry = replace(library.archive, changed(library.staged("rank=2"), keep_original=False))
    assert entry.original is None
    assert library.lora.read_bytes() == library.small["rank=2"]
    assert (entries(library.archive), contents(library.archive.originals)) == ([], {})


def test_a_new_original_under_the_name_gets_an_entry_of_its_own(library: Library, tmp_path: Path) -> None:
    old = library.replaced("rank=2")
    newer = write_small_lora(tmp_path / "newer.safetensors", 5).read_bytes()
    library.lora.write_bytes(newer)
    staged = staged_path(library.lora)
    made_from(library.lora, "rank=2", staged)
    new = replace(library.archive, Replacement(library.lora, staged, sha256(newer), "r", "ink"))
    assert len(entries(library.archive)) == 2
    assert entry_of(library.archive, library.lora) == new
    with pytest.raises(OutputError, match="another file has this name now"):
        restore(library.archive, old)
    restore(library.archive, new)
    assert library.lora.read_bytes() == newer
    assert old.original is not None
    assert old.original.read_bytes() == library.original


class Bad(NamedTuple):
    words: str
    data: Callable[[Library], bytes]


def _damaged(library: Library) -> bytes:
    data = bytearray(library.small["rank=2"])
    data[-1] ^= 1
    return bytes(data)


def _of_another(library: Library) -> bytes:
    library.place.with_name("other.safetensors").unlink(missing_ok=True)
    other = write_small_lora(library.place.with_name("other.safetensors"), 9)
    return made_from(other, "rank=2", library.place.with_name("other.staged"))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "bad",
    [
        Bad("are not the ones that were written", _damaged),
        Bad("cannot be read back", lambda library: library.small["rank=2"][:-10]),
        Bad("was not made by Resize LoRA from this source", _of_another),
        Bad("was not made by Resize LoRA from this source|not the ones", lambda library: library.original),
    ],
    ids=["damaged", "short", "of another source", "foreign"],
)
def test_a_file_that_was_not_verified_replaces_nothing(library: Library, bad: Bad, keep: bool) -> None:
    asked = changed(library.staged("rank=2"), keep_original=keep)
    asked.staged.write_bytes(bad.data(library))
    with pytest.raises(OutputError, match=bad.words):
        replace(library.archive, asked)
    assert library.state() == "original"
    assert not asked.staged.exists()


# What changed in between ----------------------------------------------------------------------------------------


def test_an_original_that_changed_while_it_was_resized_stays(library: Library) -> None:
    asked = library.staged("rank=2")
    library.lora.write_bytes(library.original + b"\0")
    with pytest.raises(OutputError, match="changed while it was being resized"):
        replace(library.archive, asked)
    assert library.lora.read_bytes() == library.original + b"\0"
    assert contents(library.archive.originals) == {}


@pytest.mark.parametrize("how", ["written into", "replaced"])
def test_an_original_that_changes_in_the_last_moment_stays(
    library: Library, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real = exchanging.hold

    def late(one: Exchange) -> None:
        real(one)
        if how == "replaced":
            one.home.unlink()
        one.home.write_bytes(b"newer")

    monkeypatch.setattr(replacing, "hold", late)
    with pytest.raises(OutputError, match="changed while it was being replaced"):
        library.replaced("rank=2")
    assert library.lora.read_bytes() == b"newer"
    kept = contents(library.archive.originals).values()
    assert (library.original in kept) == (how == "replaced"), "written into, both names are one file"
    assert b"newer" not in kept
    library.lora.rename(library.lora.with_name("mine"))
    directions = [one.direction for one in recover(library.archive)]
    assert directions == ([] if how == "written into" else ["completed"])


def test_a_new_file_that_was_changed_is_not_overwritten_by_a_restore(library: Library) -> None:
    entry = library.replaced("rank=2")
    library.lora.write_bytes(b"mine")
    with pytest.raises(OutputError, match="another file has this name now"):
        restore(library.archive, entry)
    assert library.lora.read_bytes() == b"mine"
    assert entries(library.archive) == [entry]
    library.lora.unlink()
    restore(library.archive, entry)
    assert library.state() == "original"


def test_a_link_in_the_way_of_a_restore_stays(library: Library) -> None:
    entry = library.replaced("rank=2")
    away = library.lora.rename(library.root / "elsewhere")
    library.lora.symlink_to(away)
    with pytest.raises(OutputError, match="another file has this name now"):
        restore(library.archive, entry)
    assert library.lora.is_symlink()
    library.lora.unlink()
    away.unlink()


def test_an_original_that_was_deleted_or_changed_by_hand_is_an_error_in_words(library: Library) -> None:
    entry = library.replaced("rank=2")
    assert entry.original is not None
    entry.original.write_bytes(b"x")
    with pytest.raises(OutputError, match="was changed in the archive"):
        restore(library.archive, entry)
    entry.original.unlink()
    with pytest.raises(OutputError, match="not in the archive any more"):
        restore(library.archive, entry)
    assert library.lora.read_bytes() == library.small["rank=2"]
    assert purge(library.archive, [entry])[0] == 0
    assert entries(library.archive) == []
    with pytest.raises(OutputError, match="no original of this file any more"):
        restore(library.archive, entry)


def test_an_original_that_was_copied_back_by_hand_is_there_once_after_a_restore(library: Library) -> None:
    entry = library.replaced("rank=2")
    assert entry.original is not None
    shutil.copy(entry.original, library.lora)
    restore(library.archive, entry)
    assert library.state() == "original"


def test_a_sidecar_that_was_changed_stays_and_its_earlier_version_is_named(library: Library) -> None:
    entry = library.replaced("rank=2")
    mine = library.lora.with_name("ink.metadata.json")
    mine.write_text('{"notes": "new words"}')
    restored = restore(library.archive, entry)
    assert mine.read_text() == '{"notes": "new words"}'
    assert [path.read_bytes() for path in restored.changed] == [library.first[mine]]
    assert library.lora.read_bytes() == library.original


def test_a_sidecar_that_was_changed_keeps_the_words_of_its_owner_in_a_second_replacement(library: Library) -> None:
    library.replaced("rank=2")
    mine = library.lora.with_name("ink.metadata.json")
    mine.write_text('{"notes": "new words", "sha256": "00"}')
    entry = library.replaced("rank=1")
    assert json.loads(mine.read_text()) == {"notes": "new words", "sha256": sha256(library.small["rank=1"])}
    assert len(restore(library.archive, entry).changed) == 1
    assert "new words" in mine.read_text()


def test_something_in_the_way_of_a_recovery_is_named_and_stays(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(replacing, "put_staged", dies)
        patch.setattr(replacing, "revert", dies)
        with pytest.raises(KeyboardInterrupt):
            library.replaced("rank=2")
    library.lora.unlink()
    library.lora.write_bytes(b"mine")
    for _ in range(2):
        (found,) = recover(library.archive)
        assert (found.direction, found.home) == ("blocked", library.lora)
        assert "Rename or move it" in found.message
    assert library.lora.read_bytes() == b"mine"
    with pytest.raises(OutputError, match="an earlier replacement is not finished"):
        library.replaced("rank=2")
    library.lora.unlink()
    assert [one.direction for one in recover(library.archive)] in (["completed"], ["reverted"])
    assert library.lora.read_bytes() in (library.original, library.small["rank=2"])


# Purge ----------------------------------------------------------------------------------------------------------


def test_purge_deletes_the_original_and_leaves_the_smaller_file(library: Library) -> None:
    entry = library.replaced("rank=2")
    assert older_than([entry], 1) == []
    assert older_than([changed(entry, replaced=entry.replaced - 2 * 86400)], 1) != []
    size = sum(map(len, contents(library.archive.originals).values()))
    assert purge(library.archive, [entry]) == (1, size)
    assert (entries(library.archive), contents(library.archive.originals)) == ([], {})
    assert library.lora.read_bytes() == library.small["rank=2"]


def test_an_entry_that_we_never_wrote_is_left_alone(library: Library) -> None:
    entry = library.replaced("rank=2")
    path = library.archive.entries / f"{entry.id}.json"
    for bad in ("../../x", "/etc/passwd", "originals/../x", "entries/x"):
        document = json.loads(path.read_text())
        document["original"] = bad
        path.write_text(json.dumps(document))
        assert entries(library.archive) == []
    path.write_text("{")
    (library.archive.entries / "note.json").write_text("{}")
    assert entries(library.archive) == []


# Names ----------------------------------------------------------------------------------------------------------

LONG = "墨" * 77 + "x" * (255 - 77 * 3 - len(".safetensors"))


@pytest.mark.parametrize("stem", ["pâte à 墨 😀", LONG, "a.b.c", os.fsdecode(b"bytes \xff\xfe"), "-r"])
def test_any_name_is_replaced_and_restored(tmp_path: Path, stem: str) -> None:
    root = tmp_path / "Lora"
    lora = write_small_lora(root / f"{stem}.safetensors", 1)
    if len(os.fsencode(stem)) < 200:
        write_sidecars(lora) if stem.isprintable() else None
    first = contents(root)
    archive = open_archive(default_archive(root), [root])
    staged = staged_path(lora)
    made_from(lora, "rank=1", staged)
    entry = replace(archive, Replacement(lora, staged, sha256(first[lora]), "r", stem))
    assert entries(archive) == [entry]
    assert lora.stat().st_size < len(first[lora])
    restore(archive, entry)
    assert contents(root) == first


def test_names_that_differ_in_case_only_are_two_files(tmp_path: Path) -> None:
    root = tmp_path / "Lora"
    loras = [write_small_lora(root / name, seed) for seed, name in enumerate(("Ink.safetensors", "ink.safetensors"))]
    if len(list(root.iterdir())) < 2:
        pytest.skip("this disk does not know them apart")
    first = contents(root)
    archive = open_archive(default_archive(root), [root])
    for lora in loras:
        staged = staged_path(lora)
        made_from(lora, "rank=1", staged)
        replace(archive, Replacement(lora, staged, sha256(first[lora]), "r", lora.stem))
    for entry in entries(archive):
        restore(archive, entry)
    assert contents(root) == first


def test_on_an_archive_without_case_the_second_name_gets_a_tree_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "Lora"
    loras = [write_small_lora(root / name, seed) for seed, name in enumerate(("Ink.safetensors", "ink.safetensors"))]
    archive = open_archive(default_archive(root), [root])
    real = os.path.lexists

    def without_case(path: Any) -> bool:
        path = Path(path)
        is_inside = archive.folder in path.parents and path.parent.is_dir()
        siblings = list(path.parent.iterdir()) if is_inside else []
        return real(path) or path.name.casefold() in {one.name.casefold() for one in siblings}

    for lora in loras:
        staged = staged_path(lora)
        made_from(lora, "rank=1", staged)
        with monkeypatch.context() as patch:
            patch.setattr(os.path, "lexists", without_case)
            replace(archive, Replacement(lora, staged, sha256(lora.read_bytes()), "r", lora.stem))
    found = [entry.original.relative_to(archive.originals) for entry in entries(archive) if entry.original]
    assert [path.as_posix() for path in found] == ["Lora/Ink.safetensors", "Lora (2)/ink.safetensors"]


# Files that are left alone --------------------------------------------------------------------------------------


def test_links_and_write_protected_files_are_left_alone(library: Library, tmp_path: Path) -> None:
    assert left_alone(library.lora) is None
    link, hard = library.root / "link.safetensors", library.root / "hard.safetensors"
    link.symlink_to(library.lora)
    kinds = [left_alone(link), left_alone(library.root / "none")]
    os.link(library.lora, hard)
    kinds += [left_alone(hard), left_alone(library.lora)]
    hard.unlink()
    library.lora.chmod(0o444)
    kinds += [left_alone(library.lora)]
    assert [one.kind for one in kinds if one] == ["link", "missing", "hard_link", "hard_link", "read_only"]
    with pytest.raises(OutputError, match="is write-protected"):
        library.replaced("rank=2")
    link.unlink()
    library.lora.chmod(0o644)
    assert library.state() == "original"


# The place ------------------------------------------------------------------------------------------------------


def test_the_default_archive_is_next_to_the_lora_folder(tmp_path: Path) -> None:
    style = tmp_path / "models" / "Lora" / "style"
    style.mkdir(parents=True)
    assert lora_root(style) == tmp_path / "models" / "Lora"
    assert default_archive(style) == tmp_path / "models" / "Resize LoRA archive"
    plain = tmp_path / "mine"
    plain.mkdir()
    assert default_archive(plain) == tmp_path / "Resize LoRA archive"
    assert default_archive(style, [tmp_path / "models"]) == tmp_path / "Resize LoRA archive"
    (tmp_path / "Resize LoRA archive" / "entries").mkdir(parents=True)
    assert default_archive(style) == tmp_path / "models" / "Resize LoRA archive", "an archive of other folders is not"
    (tmp_path / "Resize LoRA archive" / "originals" / "models").mkdir(parents=True)
    assert default_archive(style) == tmp_path / "Resize LoRA archive", "one that has files of the folder is used"
    assert existing_archive(style / "x.safetensors") == tmp_path / "Resize LoRA archive"


def test_an_archive_that_a_host_would_list_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "Lora"
    root.mkdir()
    with pytest.raises(OutputError, match="is inside of"):
        open_archive(root / "archive", [root])
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(OutputError, match="is inside of"):
        open_archive(tmp_path / "link" / "archive", [root])
    with pytest.raises(OutputError, match="is inside of"):
        open_archive(tmp_path / "embeddings" / "a", [root], [tmp_path / "embeddings"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty and not an archive"):
        open_archive(tmp_path / "full", [root])
    assert open_archive(tmp_path / "new", [root]) == Archive(tmp_path / "new", (root,))
    assert not (tmp_path / "new").exists()


def test_an_archive_without_permission_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="no permission to write"):
        open_archive(tmp_path / "archive", [])


def test_a_read_only_archive_leaves_every_file_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = library.replaced("rank=2")
    real = os.open

    def read_only(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and library.place in Path(os.fsdecode(path)).parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    for act in (lambda: library.replaced("rank=1"), lambda: restore(library.archive, entry)):
        with pytest.raises(OutputError, match="read-only"):
            act()
        assert library.state() == "rank=2"
    assert recover(library.archive) == []


def test_a_batch_that_does_not_fit_is_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(library.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    check_room(library.archive, 1000, [library.lora])
    with pytest.raises(OutputError, match=r"has 1\.00 MiB free"):
        check_room(library.archive, 2 << 20, [library.lora])


def test_from_another_disk_there_must_be_room_for_the_originals(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == library.root.stat().st_dev:
        pytest.skip("there is no second disk here")
    with open(library.lora, "ab") as stream:
        stream.truncate(2 << 20)
    usage = shutil.disk_usage(library.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(OutputError, match=r"has 1\.00 MiB free"):
        check_room(Archive(shared / "none"), 0, [library.lora])
