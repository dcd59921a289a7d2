"""The settings of Resize LoRA on the WebUI's settings page: the defaults of the page.

A setting is a row of `SETTINGS`; hosts keep the values. `read_preferences` accepts anything: a value that cannot be
used is replaced by the default, with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .faults import Fault
from .lora_warnings import FLOOR
from .names import check_suffix
from .options import Options
from .protocol.objects import LOADED, NONE

SECTION = ("resize_lora", "Resize LoRA")
"""Id and title of the section of the settings page."""

PRESET_WORDS = {"High": "high", "Medium": "medium", "Low": "low"}
DTYPE_WORDS = {"float16": "16", "bfloat16": "bf16", "float32": "32", "float8": "8", "Same as input": "same"}
REFERENCE_WORDS = {"Loaded checkpoint": LOADED, "No reference": NONE}

_OLD_CHOICES = {"As they were": "Same as input"}
"""Choices that earlier versions stored in the host's settings."""

ALWAYS, CARDS, FILE_NAMES = "always", "cards", "file names"


@dataclass(frozen=True)
class Setting:
    """One row of the settings page."""

    name: str
    """Field of `Preferences`; the host knows it as ``resize_lora_{name}``."""
    label: str
    default: str | bool | float
    choices: Mapping[str, str] = field(default_factory=dict)
    """Shown text -> value; empty where the setting is not a choice."""
    span: tuple[float, float, float] | None = None
    """Of a slider: minimum, maximum, step."""
    info: str = ""
    needs: str = ALWAYS
    """``cards``: only where the host has cards of LoRAs. ``file names``: only where the host's command line lets users
    name files."""
    reload: bool = False
    """Whether a change needs a reload of the page."""

    @property
    def key(self) -> str:
        return f"resize_lora_{self.name}"


SETTINGS = (
    Setting("preset", "Default preset", "Medium", PRESET_WORDS),
    Setting(
        "suffix",
        "File name suffix",
        Options.suffix,
        info="{size}, {retention} and {rank} are replaced by their values",
        needs=FILE_NAMES,
    ),
    Setting("dtype", "Dtype", "float16", DTYPE_WORDS),
    Setting("reference", "Default reference", "Loaded checkpoint", REFERENCE_WORDS),
    Setting(
        "floor",
        "Weight retention below which the tab warns",
        FLOOR,
        span=(0.5, 1.0, 0.01),
    ),
    Setting(
        "archive",
        "Folder for the originals of LoRAs that are resized in place",
        "",
        info='outside of all folders of models; empty: "Resize LoRA archive" next to the LoRA folder. Originals that '
        "are in the archive do not move with this setting",
        needs=FILE_NAMES,
    ),
    Setting("estimate", "Estimate the sizes of all LoRAs in the background", default=True),
    Setting("sidecars", "Copy preview and description", default=True),
    Setting("card_menu", "Right-click menu on cards of LoRAs", default=True, needs=CARDS),
    Setting("card_button", "Button on cards of LoRAs", default=True, needs=CARDS, reload=True),
)


@dataclass(frozen=True)
class Preferences:
    """The values of the settings, as the protocol has them."""

    preset: str = "medium"
    suffix: str = Options.suffix
    dtype: str = Options.dtype
    reference: str = LOADED
    floor: float = FLOOR
    archive: str = ""
    estimate: bool = True
    sidecars: bool = True
    card_menu: bool = True
    card_button: bool = True
    notes: tuple[str, ...] = ()
    """Which settings cannot be used, and why."""

    def to_json(self) -> dict[str, Any]:
        """Return the `Defaults` of the protocol."""
        names = ("suffix", "dtype", "reference", "sidecars")
        return {
            "preset": self.preset,
            "options": {name: getattr(self, name) for name in names},
            "card_menu": self.card_menu,
            "notes": list(self.notes),
        }


def read_preferences(values: Mapping[str, Any]) -> Preferences:
    """Return the preferences from a host's settings, by the host's keys; what is missing is the default."""
    found: dict[str, Any] = {}
    notes = []
    for setting in SETTINGS:
        if setting.key not in values:
            continue
        try:
            found[setting.name] = _read(setting, values[setting.key])
        except Fault as error:
            notes.append(
                f"Settings, {setting.label}: {error} Used instead: {setting.default}."
                if setting.default
                else f"Settings, {setting.label}: {error} The default is used."
            )
    return Preferences(**found, notes=tuple(notes))


def _read(setting: Setting, value: Any) -> str | bool | float:
    """Return the value of a setting. Raises Fault where it cannot be used."""
    if setting.choices:
        value = _OLD_CHOICES.get(value, value) if isinstance(value, str) else value
        if not isinstance(value, str) or value not in setting.choices:
            raise Fault("request", f"expected one of {', '.join(setting.choices)}, found {str(value)[:60]!r}.")
        return setting.choices[value]
    if setting.span is not None:
        return _number(value, setting.span)
    if not isinstance(value, type(setting.default)):
        raise Fault("request", f"expected {type(setting.default).__name__}, found {str(value)[:60]!r}.")
    return _TEXTS[setting.name](value) if isinstance(value, str) else value


def _folder(value: str) -> str:
    """Return the path of a folder, or nothing. Raises Fault for one that depends on where the host was started."""
    if value.strip() and not Path(value.strip()).is_absolute():
        raise Fault("request", f"expected the whole path of a folder, found {value[:60]!r}.")
    return value.strip()


_TEXTS: Mapping[str, Callable[[str], str]] = {"suffix": check_suffix, "archive": _folder}
"""Checks of the settings that are texts."""


def _number(value: Any, span: tuple[float, float, float]) -> float:
    least, most, _ = span
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise Fault("request", f"expected a number from {least:g} to {most:g}, found {str(value)[:60]!r}.")
    return float(value)


@dataclass(frozen=True)
class SettingRow:
    """A setting as a host adds it to its settings page."""

    key: str
    default: str | bool | float
    label: str
    component: Any
    """A class of Gradio."""
    arguments: dict[str, Any]
    info: str
    reload: bool


def setting_rows(*, cards: bool, file_names: bool) -> Sequence[SettingRow]:
    """Return the rows that a host shows. Where its command line does not let users name files, as for images, that row
    is hidden, not missing, so that its value still holds."""
    import gradio as gr

    found = []
    for setting in SETTINGS:
        if setting.needs == CARDS and not cards:
            continue
        component, arguments = _component(gr, setting)
        if setting.needs == FILE_NAMES and not file_names:
            arguments["visible"] = False
        found.append(
            SettingRow(setting.key, setting.default, setting.label, component, arguments, setting.info, setting.reload)
        )
    return found


def _component(gr: Any, setting: Setting) -> tuple[Any, dict[str, Any]]:
    if setting.choices:
        return gr.Radio, {"choices": list(setting.choices)}
    if setting.span is not None:
        least, most, step = setting.span
        return gr.Slider, {"minimum": least, "maximum": most, "step": step}
    return (gr.Checkbox, {}) if isinstance(setting.default, bool) else (gr.Textbox, {})
