"""Where undone results wait: outside of all that the host scans, on the disk of their LoRAs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib_resize.hosts import trash_places
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.scan import INNER_TRASH, TRASH
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.hosts.trash_places import TrashPlaces
from tests.hosts.standins import WebUI, module


@pytest.fixture(autouse=True)
def _anew() -> None:
    trash_places._usable.cache_clear()


def folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_it_is_next_to_the_folder_of_loras_and_is_not_made_by_asking(tmp_path: Path) -> None:
    root = folder(tmp_path / "models" / "Lora")
    places = TrashPlaces([root], [folder(tmp_path / "models" / "Stable-diffusion")])
    assert places.of(root / "a.safetensors") == places.of(None) == tmp_path / "models" / TRASH
    assert places.all() == [tmp_path / "models" / TRASH, root / INNER_TRASH]
    assert sorted(path.name for path in root.parent.iterdir()) == ["Lora", "Stable-diffusion"]


def test_each_root_has_its_own_and_a_root_inside_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    outer, inner, other = (folder(tmp_path / name) for name in ("a/Lora", "a/Lora/deep/more", "b/loras"))
    places = TrashPlaces([outer, inner, other], [])
    assert places.of(other / "x" / "a.safetensors") == tmp_path / "b" / TRASH
    assert places.of(inner / "a.safetensors") == places.of(outer / "a.safetensors") == tmp_path / "a" / TRASH
    assert places.of(tmp_path / "far.safetensors") == tmp_path / "a" / TRASH


def test_a_folder_that_is_scanned_is_left_out_by_its_real_path_too(tmp_path: Path) -> None:
    root = folder(tmp_path / "all" / "models" / "Lora")
    for scanned in (tmp_path / "all" / "models", tmp_path / "all"):
        outside = scanned.parent
        assert TrashPlaces([root], [scanned]).of(root / "a") == outside / TRASH
    (tmp_path / "all" / "models" / TRASH).symlink_to(folder(root / "linked"))
    assert TrashPlaces([root], []).of(root / "a") == root / INNER_TRASH


def test_a_link_to_a_root_is_taken_by_where_it_leads(tmp_path: Path) -> None:
    real = folder(tmp_path / "disk" / "loras")
    folder(tmp_path / "models")
    (tmp_path / "models" / "Lora").symlink_to(real)
    host = StandaloneHost([tmp_path / "models" / "Lora"])
    assert host.trash_root(tmp_path / "models" / "Lora" / "a.safetensors") == tmp_path / "disk" / TRASH


def test_where_the_folder_above_cannot_be_written_the_hosts_own_is_used_and_else_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, data = folder(tmp_path / "ro" / "Lora"), folder(tmp_path / "data")
    real = Path.mkdir

    def mkdir(path: Path, *more: Any, **named: Any) -> None:
        if path.parent == tmp_path / "ro":
            raise PermissionError(13, "Permission denied")
        real(path, *more, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert TrashPlaces([root], [], data).of(root / "a") == data / TRASH
    assert TrashPlaces([root], [], root / "data").of(root / "a") == root / INNER_TRASH
    assert TrashPlaces([root], []).of(root / "a") == root / INNER_TRASH


def test_another_disk_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the root is a mount point."""
    root, data = folder(tmp_path / "Lora"), folder(tmp_path / "data")
    monkeypatch.setattr(trash_places, "_on_one_disk", lambda one, other: one == data)
    assert TrashPlaces([root], [], data).of(root / "a") == data / TRASH
    assert TrashPlaces([root], []).all() == [root / INNER_TRASH]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second file system")
def test_disks_are_distinguished_by_their_numbers(tmp_path: Path) -> None:
    assert trash_places._on_one_disk(tmp_path, tmp_path.parent)
    assert not trash_places._on_one_disk(tmp_path, Path("/proc"))
    assert not trash_places._on_one_disk(tmp_path, tmp_path / "gone")


def test_a_webui_reports_what_it_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "models" / "Lora")
    webui = WebUI(root).install(monkeypatch)
    assert A1111Host().trash_root() == tmp_path / "models" / TRASH
    webui.cmd_opts.ckpt_dirs = [str(tmp_path / "models")]
    host = A1111Host()
    assert host.trash_root() == tmp_path / TRASH
    assert host.trash_roots() == [tmp_path / TRASH, root / INNER_TRASH]
    webui.cmd_opts.ckpt_dirs = None
    checkpoint = SimpleNamespace(title="base", filename=str(tmp_path / "models" / "base.safetensors"))
    webui.modules["modules.sd_models"].checkpoints_list = {"base": checkpoint}
    assert A1111Host().trash_root() == tmp_path / TRASH
    assert host.trash_root() == tmp_path / TRASH, "the place stays while the program runs"


def test_without_any_folder_of_loras_the_hosts_own_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webui = WebUI(tmp_path / "gone")
    webui.modules["modules.paths"] = module("modules.paths", data_path=str(tmp_path))
    webui.install(monkeypatch)
    assert A1111Host().trash_root() == tmp_path / TRASH
    assert A1111Host().trash_roots() == [tmp_path / TRASH]
