"""What a person sets on the WebUI's settings page, and what the page then starts from.

A setting is a row of `SETTINGS`; hosts keep the values. Whatever they hold, `read_preferences` makes something of it
that works: a value that cannot be used is left, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .analyses import FLOOR
from .faults import Fault
from .names import check_suffix
from .options import LOADED, NONE, Options

SECTION = ("resize_lora", "Resize LoRA")
"""Id and title of our part of the settings page."""

PRESET_WORDS = {"High": "high", "Medium": "medium", "Low": "low"}
DTYPE_WORDS = {"float16": "16", "bfloat16": "bf16", "float32": "32", "float8": "8", "As they were": "same"}
REFERENCE_WORDS = {"Loaded checkpoint": LOADED, "No reference": NONE}

ALWAYS, CARDS, FILE_NAMES = "always", "cards", "file names"


@dataclass(frozen=True)
class Setting:
    """One row of the settings page."""

    name: str
    """Field of `Preferences`; the host knows it as ``resize_lora_{name}``."""
    label: str
    default: str | bool | float
    choices: Mapping[str, str] = field(default_factory=dict)
    """What is shown -> what is meant; empty where it is no choice."""
    span: tuple[float, float, float] | None = None
    """Of a slider: least, most, step."""
    info: str = ""
    needs: str = ALWAYS
    """``cards``: only where the host has cards of LoRAs. ``file names``: only where the command line lets people
    say how files are called."""
    reload: bool = False
    """Whether the page has to be made anew."""

    @property
    def key(self) -> str:
        return f"resize_lora_{self.name}"


SETTINGS = (
    Setting("preset", "Preset that the tab starts with", "Medium", PRESET_WORDS),
    Setting(
        "suffix",
        "End of a new file's name",
        Options.suffix,
        info="{size}, {retention} and {rank} are filled in",
        needs=FILE_NAMES,
    ),
    Setting("dtype", "Numbers of a new file", "float16", DTYPE_WORDS),
    Setting("reference", "Reference that the tab starts with", "Loaded checkpoint", REFERENCE_WORDS),
    Setting(
        "floor",
        "Weight retention under which the tab warns",
        FLOOR,
        span=(0.5, 1.0, 0.01),
    ),
    Setting("sidecars", "Copy preview and description", default=True),
    Setting("card_menu", "Right-click menu on cards of LoRAs", default=True, needs=CARDS),
    Setting("card_button", "Button on cards of LoRAs", default=True, needs=CARDS, reload=True),
)


@dataclass(frozen=True)
class Preferences:
    """The values, in the words of docs/panel-protocol.md."""

    preset: str = "medium"
    suffix: str = Options.suffix
    dtype: str = Options.dtype
    reference: str = LOADED
    floor: float = FLOOR
    sidecars: bool = True
    card_menu: bool = True
    card_button: bool = True
    notes: tuple[str, ...] = ()
    """What could not be used, and why."""

    def as_json(self) -> dict[str, Any]:
        """`defaults` of `hello`."""
        names = ("suffix", "dtype", "reference", "sidecars")
        return {
            "preset": self.preset,
            "options": {name: getattr(self, name) for name in names},
            "card_menu": self.card_menu,
            "notes": list(self.notes),
        }


def read_preferences(values: Mapping[str, Any]) -> Preferences:
    """From what a host keeps, by the host's keys; what is not there is the default."""
    found: dict[str, Any] = {}
    notes = []
    for setting in SETTINGS:
        if setting.key not in values:
            continue
        try:
            found[setting.name] = _read(setting, values[setting.key])
        except Fault as error:
            notes.append(f"Settings, {setting.label}: {error} {setting.default} is used.")
    return Preferences(**found, notes=tuple(notes))


def _read(setting: Setting, value: Any) -> str | bool | float:
    """Raises Fault."""
    if setting.choices:
        if not isinstance(value, str) or value not in setting.choices:
            raise Fault("request", f"one of {', '.join(setting.choices)} was expected, found {str(value)[:60]!r}.")
        return setting.choices[value]
    if setting.span is not None:
        return _number(value, setting.span)
    if not isinstance(value, type(setting.default)):
        raise Fault("request", f"{type(setting.default).__name__} was expected, found {str(value)[:60]!r}.")
    return check_suffix(value) if isinstance(value, str) else value


def _number(value: Any, span: tuple[float, float, float]) -> float:
    least, most, _ = span
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise Fault("request", f"a number from {least:g} to {most:g} was expected, found {str(value)[:60]!r}.")
    return float(value)


@dataclass(frozen=True)
class Offer:
    """A row as a host's settings page takes it."""

    key: str
    default: str | bool | float
    label: str
    component: Any
    """A class of Gradio."""
    arguments: dict[str, Any]
    info: str
    reload: bool


def offers(*, cards: bool, file_names: bool) -> Sequence[Offer]:
    """The rows that a host offers. Where the command line takes the naming of files from people, as it does for
    pictures, that row is there and not shown, so that its value still holds."""
    import gradio as gr

    found = []
    for setting in SETTINGS:
        if setting.needs == CARDS and not cards:
            continue
        component, arguments = _component(gr, setting)
        if setting.needs == FILE_NAMES and not file_names:
            arguments["visible"] = False
        found.append(
            Offer(setting.key, setting.default, setting.label, component, arguments, setting.info, setting.reload)
        )
    return found


def _component(gr: Any, setting: Setting) -> tuple[Any, dict[str, Any]]:
    if setting.choices:
        return gr.Radio, {"choices": list(setting.choices)}
    if setting.span is not None:
        least, most, step = setting.span
        return gr.Slider, {"minimum": least, "maximum": most, "step": step}
    return (gr.Checkbox, {}) if isinstance(setting.default, bool) else (gr.Textbox, {})
