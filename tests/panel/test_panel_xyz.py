"""The axis of the X/Y/Z plot, in a stand-in of that script: its list of axes, and what it does with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib_resize.errors import UsageError
from lib_resize.hosts.host import LoraFile
from lib_resize.panel.xyz import LABEL, register
from tests.panel.panelhost import Browser


class AxisOption:
    """The host's, with its signature."""

    def __init__(
        self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None
    ) -> None:
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


def script() -> Any:
    return SimpleNamespace(axis_options=[AxisOption("Nothing", str, None)], AxisOption=AxisOption)


def request(prompt: Any, **more: Any) -> Any:
    return SimpleNamespace(**{"prompt": prompt, "hr_prompt": "", "negative_prompt": "", "styles": [], **more})


def networks(prompts: Any) -> list[str]:
    """What the host reads of a batch: the tags of the first prompt."""
    first = prompts[0] if isinstance(prompts, list) else prompts
    return [args for name, args in re.findall(r"<(\w+):([^>]+)>", first) if name in ("lora", "lyco")]


def plot(axis: AxisOption, asked: Any, values: Sequence[str]) -> list[Any]:
    """As the script does it: values checked, then a copy of the request for each cell."""
    values = [axis.type(value) for value in values]
    axis.confirm(asked, values)
    cells = []
    for value in values:
        cell = copy(asked)
        axis.apply(cell, value, values)
        cells.append(cell)
    return cells


@pytest.fixture
def axis(browser: Browser) -> AxisOption:
    made = script()
    assert register(made, lambda: browser.service.desk.versions)
    last: AxisOption = made.axis_options[-1]
    return last


@pytest.fixture
def versions(browser: Browser) -> list[str]:
    """Two files of ours, the second made of the first."""
    small = browser.resized("pastry", target={"rank": 4}, options={"suffix": "_r4"})["output"]
    smaller = browser.resized(small, target={"rank": 1}, options={"suffix": "_r1"})["output"]
    return [small, smaller]


def test_it_is_registered_once_however_often_it_is_asked() -> None:
    made = script()
    for _ in range(3):
        assert register(made, lambda: None)
    assert [option.label for option in made.axis_options] == ["Nothing", LABEL]
    assert made.axis_options[-1].type is str


@pytest.mark.parametrize("module", [None, SimpleNamespace(), SimpleNamespace(axis_options=())])
def test_a_script_of_another_kind_is_left_alone(module: Any) -> None:
    assert not register(module, lambda: None)


def test_its_choices_are_originals_with_all_that_was_made_of_them(axis: AxisOption, versions: list[str]) -> None:
    assert axis.choices() == ["pastry", *sorted(versions)], "ink has no version, so it is none"


def test_a_new_version_is_among_the_choices_at_once(axis: AxisOption, browser: Browser) -> None:
    assert axis.choices() == []
    made = browser.resized("ink", target={"rank": 1})["output"]
    assert axis.choices() == ["ink", made]


def test_versions_of_an_original_that_is_gone_are_still_a_family(
    axis: AxisOption, versions: list[str], root: Path
) -> None:
    (root / "pastry.safetensors").unlink()
    assert axis.choices() == sorted(versions)
    cells = plot(axis, request(f"<lora:{versions[0]}:1>"), versions)
    assert [networks(cell.prompt) for cell in cells] == [[f"{name}:1"] for name in versions]


@pytest.mark.parametrize("rest", ["", ":1", ":0.8:0.5", ":1:0.7:4", ":te=0.5:unet=1:dyn=8", ":-0.3"])
@pytest.mark.parametrize("kind", ["lora", "lyco"])
def test_the_tag_is_exchanged_and_its_multipliers_stay(
    axis: AxisOption, versions: list[str], rest: str, kind: str
) -> None:
    asked = request(f"a cake, <{kind}:pastry{rest}>, cream <lora:ink:0.3>")
    values = ["pastry", *versions]
    cells = plot(axis, asked, values)
    assert [cell.prompt for cell in cells] == [
        f"a cake, <{kind}:{value}{rest}>, cream <lora:ink:0.3>" for value in values
    ]
    assert asked.prompt == f"a cake, <{kind}:pastry{rest}>, cream <lora:ink:0.3>"


def test_a_prompt_with_one_version_can_be_plotted_over_the_others(axis: AxisOption, versions: list[str]) -> None:
    cells = plot(axis, request(f"x <lora:{versions[1]}:0.5>"), ["pastry", versions[0]])
    assert [networks(cell.prompt) for cell in cells] == [["pastry:0.5"], [f"{versions[0]}:0.5"]]


def test_the_hires_prompt_is_exchanged_too_and_an_empty_one_stays_the_same_as_the_prompt(
    axis: AxisOption, versions: list[str]
) -> None:
    (cell,) = plot(axis, request("<lora:pastry:1>", hr_prompt="sharp <lora:pastry:0.4>"), versions[:1])
    assert cell.hr_prompt == f"sharp <lora:{versions[0]}:0.4>"
    (cell,) = plot(axis, request("<lora:pastry:1>"), versions[:1])
    assert cell.hr_prompt == ""


def test_all_prompts_of_a_batch_are_exchanged(axis: AxisOption, versions: list[str]) -> None:
    asked = request(["one <lora:pastry:1>", "two <lora:pastry:0.5>"])
    (cell,) = plot(axis, asked, versions[:1])
    assert cell.prompt == [f"one <lora:{versions[0]}:1>", f"two <lora:{versions[0]}:0.5>"]
    assert asked.prompt[0] == "one <lora:pastry:1>", "the cells share the list"


def test_a_tag_that_only_a_later_prompt_of_the_batch_has_would_do_nothing(
    axis: AxisOption, versions: list[str]
) -> None:
    with pytest.raises(UsageError, match="or its other versions to replace"):
        plot(axis, request(["one", "two <lora:pastry:1>"]), versions)


def test_an_alias_in_the_prompt_is_the_original(axis: AxisOption, versions: list[str], host: Any) -> None:
    host.listed = [LoraFile(one.name, one.path, {"pastry": "Törtchen"}.get(one.name)) for one in host.loras()]
    (cell,) = plot(axis, request("<lora:Törtchen:0.7>"), versions[:1])
    assert networks(cell.prompt) == [f"{versions[0]}:0.7"]


def test_two_axes_for_two_loras_do_not_meet(axis: AxisOption, versions: list[str], browser: Browser) -> None:
    ink = browser.resized("ink", target={"rank": 1})["output"]
    (cell,) = plot(axis, request("<lora:pastry:1> <lora:ink:0.5>"), versions[:1])
    (cell,) = plot(axis, cell, [ink])
    assert networks(cell.prompt) == [f"{versions[0]}:1", f"{ink}:0.5"]


@pytest.mark.parametrize("name", ["nobody", "../pastry", "", "PASTRY"])
def test_an_unknown_version_is_refused_before_the_first_picture(
    axis: AxisOption, versions: list[str], name: str
) -> None:
    with pytest.raises(UsageError, match="no installed LoRA has this name"):
        plot(axis, request("<lora:pastry:1>"), [*versions, name])


def test_an_unknown_lora_elsewhere_in_the_prompt_is_refused(axis: AxisOption, versions: list[str]) -> None:
    """Forge would make every picture without any LoRA, and all cells alike."""
    for asked in (request("<lora:pastry:1> <lora:nobody:1>"), request("<lora:pastry:1>", hr_prompt="<lora:nobody:1>")):
        with pytest.raises(UsageError, match="nobody is in the prompt"):
            plot(axis, asked, versions)


def test_a_file_that_is_new_on_the_disk_is_known_after_a_second_look(
    axis: AxisOption, versions: list[str], host: Any, root: Path
) -> None:
    host.listed = host.loras()
    (root / "ink.safetensors").rename(root / "blue.safetensors")
    (cell,) = plot(axis, request("<lora:pastry:1> <lora:blue:1>"), versions[:1])
    assert networks(cell.prompt) == [f"{versions[0]}:1", "blue:1"]


@pytest.mark.parametrize("prompt", ["a cake", "<lora:ink:1>", "pastry", "<hypernet:pastry:1>", "<lora:pastry_x:1>"])
def test_a_prompt_without_the_lora_is_refused(
    axis: AxisOption, versions: list[str], prompt: str, host: Any, root: Path
) -> None:
    (root / "pastry_x.safetensors").write_bytes((root / "ink.safetensors").read_bytes())
    with pytest.raises(UsageError, match="the prompt has no <lora"):
        plot(axis, request(prompt), versions)


def test_no_version_at_all_is_refused(axis: AxisOption) -> None:
    with pytest.raises(UsageError, match="no LoRA is chosen"):
        plot(axis, request("<lora:pastry:1>"), [])


def test_without_a_running_panel_it_reports_it_and_has_no_choices() -> None:
    made = script()
    register(made, lambda: None)
    axis = made.axis_options[-1]
    assert axis.choices() == []
    with pytest.raises(UsageError, match="Reload"):
        axis.confirm(request("<lora:pastry:1>"), ["pastry"])


def test_a_version_is_written_under_its_picture_by_its_name_alone(axis: AxisOption) -> None:
    assert axis.format_value(None, axis, "pastry_r4") == "pastry_r4"
    assert 0 < axis.cost < 1


def test_a_file_of_ours_that_took_its_originals_name_ends_the_search(
    axis: AxisOption, versions: list[str], root: Path
) -> None:
    (root / "pastry.safetensors").write_bytes((root / f"{versions[0]}.safetensors").read_bytes())
    assert axis.choices() == sorted(["pastry", *versions])
    cells = plot(axis, request("<lora:pastry:1>"), axis.choices())
    assert [networks(cell.prompt) for cell in cells] == [[f"{name}:1"] for name in axis.choices()]
