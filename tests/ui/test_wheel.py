"""What is in the wheel: the package, and what the panel serves; nothing of tests and tools."""

from __future__ import annotations

import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_every_module_and_what_the_panel_serves(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lib_resize").rglob("*.py")}
    served = {f"localizations/{path.name}" for path in (ROOT / "localizations").glob("*.json")}
    served |= {f"javascript/{path.name}" for path in (ROOT / "javascript").glob("*.js")} | {"style.css"}
    data = f"{wheel.name.rpartition('-py3')[0]}.data/data/share/resize-lora"
    expected = modules | {"lib_resize/py.typed"} | {f"{data}/{name}" for name in served}
    packed = {name for name in names(wheel) if ".dist-info/" not in name}
    assert packed == expected
    assert len(served) >= 30


def test_what_the_wheel_serves_is_what_the_checkout_has(installed: Path) -> None:
    laid = installed / "share" / "resize-lora"
    for name in ("javascript/resize_lora_90_start.js", "style.css", "localizations/zh-Hans.json"):
        assert (laid / name).read_bytes() == (ROOT / name).read_bytes()
