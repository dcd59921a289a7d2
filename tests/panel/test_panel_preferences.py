"""The settings page: what is offered, what comes of values, and where they take effect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from panelhost import Browser

from lib_resize.panel.preferences import SETTINGS, Preferences, read_preferences, setting_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("gradio")
    for name in ("Radio", "Slider", "Checkbox", "Textbox"):
        setattr(made, name, name)
    monkeypatch.setitem(sys.modules, "gradio", made)
    return made


def test_a_page_that_was_never_touched_is_the_protocols_defaults() -> None:
    untouched = read_preferences({setting.key: setting.default for setting in SETTINGS})
    assert untouched == read_preferences({}) == Preferences()


def test_every_value_is_taken() -> None:
    values = {
        "resize_lora_preset": "Low",
        "resize_lora_suffix": "_r{rank}",
        "resize_lora_dtype": "Same as input",
        "resize_lora_reference": "No reference",
        "resize_lora_floor": 0.9,
        "resize_lora_archive": " /disk/originals ",
        "resize_lora_estimate": False,
        "resize_lora_sidecars": False,
        "resize_lora_card_menu": False,
        "resize_lora_card_button": False,
        "resize_lora_cpu": "an option of another kind",
    }
    assert read_preferences(values) == Preferences(
        "low", "_r{rank}", "same", "none", 0.9, "/disk/originals", False, False, False, False
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preset", "Huge"),
        ("preset", None),
        ("preset", ["High"]),
        ("suffix", "_{nothing}"),
        ("suffix", 5),
        ("dtype", "float64"),
        ("floor", 2),
        ("floor", True),
        ("floor", "high"),
        ("floor", float("nan")),
        ("sidecars", "yes"),
        ("archive", "old/originals"),
        ("archive", 5),
        ("estimate", "always"),
        ("card_menu", None),
    ],
)
def test_a_value_that_cannot_be_used_is_the_default_and_is_said(name: str, value: Any) -> None:
    found = read_preferences({f"resize_lora_{name}": value})
    assert getattr(found, name) == getattr(Preferences(), name)
    (note,) = found.notes
    assert next(setting.label for setting in SETTINGS if setting.name == name) in note


def test_each_row_has_the_component_of_its_kind(gradio: Any) -> None:
    kinds = {offer.key: offer.component for offer in setting_rows(cards=True, file_names=True)}
    assert kinds == {
        "resize_lora_preset": "Radio",
        "resize_lora_suffix": "Textbox",
        "resize_lora_dtype": "Radio",
        "resize_lora_reference": "Radio",
        "resize_lora_floor": "Slider",
        "resize_lora_archive": "Textbox",
        "resize_lora_estimate": "Checkbox",
        "resize_lora_sidecars": "Checkbox",
        "resize_lora_card_menu": "Checkbox",
        "resize_lora_card_button": "Checkbox",
    }


def test_what_the_host_lacks_or_the_command_line_takes_is_not_offered(gradio: Any) -> None:
    rows = {offer.key: offer for offer in setting_rows(cards=False, file_names=False)}
    assert not {key for key in rows if "card" in key}
    assert rows["resize_lora_suffix"].arguments == rows["resize_lora_archive"].arguments == {"visible": False}
    assert all(offer.arguments.get("visible", True) for offer in setting_rows(cards=True, file_names=True))


@pytest.mark.parametrize("language", ["ja", "zh-Hans"])
def test_every_word_of_the_page_is_translated(language: str) -> None:
    known = json.loads((ROOT / "localizations" / f"{language}.json").read_text("utf-8"))
    words = {word for setting in SETTINGS for word in (setting.label, *setting.choices)}
    assert sorted(words - known.keys() - {"float16", "bfloat16", "float32", "float8"}) == []


def test_labels_are_no_words_that_gradio_takes_for_its_own() -> None:
    """A lower-case word alone, such as ``plot``, is looked up among Gradio's own texts."""
    words = [word for setting in SETTINGS for word in (setting.label, *setting.choices)]
    assert not [word for word in words if word.isalpha() and word.islower()]


# Where they take effect ------------------------------------------------------------------------------------------


def test_hello_tells_the_page_what_to_start_from(browser: Browser, host: Any) -> None:
    host.set = {"resize_lora_preset": "High", "resize_lora_dtype": "bfloat16", "resize_lora_suffix": "{x}"}
    hello = browser.ask("hello")
    assert hello["defaults"]["preset"] == "high"
    assert hello["defaults"]["options"] == {
        "suffix": "_{size}", "dtype": "bf16", "reference": "loaded", "sidecars": True
    }  # fmt: skip
    assert len(hello["defaults"]["notes"]) == 1


def test_the_options_of_hello_are_options_of_a_plan(browser: Browser, host: Any) -> None:
    host.set = {"resize_lora_dtype": "float8", "resize_lora_suffix": "_x", "resize_lora_sidecars": False}
    browser.analysed("pastry")
    options = browser.ask("hello")["defaults"]["options"]
    plan = browser.ask("plan", name="pastry", target={"preset": "low"}, options=options)
    assert plan["output"] == "pastry_x"


def test_the_floor_is_the_persons(browser: Browser, host: Any) -> None:
    browser.analysed("pastry")
    for floor, warned in ((0.5, False), (0.99, True)):
        host.set = {"resize_lora_floor": floor}
        plan = browser.ask("plan", name="pastry", target={"preset": "medium"})
        assert ("low_retention" in {warning["kind"] for warning in plan["warnings"]}) == warned
        assert browser.ask("hello")["floor"] == floor


def test_a_host_whose_settings_are_odd_still_greets(browser: Browser, host: Any) -> None:
    host.set = {setting.key: SimpleNamespace() for setting in SETTINGS}
    assert len(browser.ask("hello")["defaults"]["notes"]) == len(SETTINGS)
