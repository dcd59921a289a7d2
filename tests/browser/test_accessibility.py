"""axe-core on the tab and its dialogs, in both themes and on a phone: no serious or critical finding."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import ask, expect, row, setup
from tests.gradios import lacking

ONE_GRADIO = True  # see conftest.py

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
RUN = """async scope => {
    const found = await axe.run(document.querySelector(scope), {resultTypes: ['violations']});
    return found.violations.filter(one => ['serious', 'critical'].includes(one.impact))
        .map(one => [one.id, one.nodes.map(node => [node.target.join(' '), node.any.map(check => check.message).join(' ')])]); }"""
TAB = "#resize_lora_root"


def findings(page: Any, *scopes: str) -> list[Any]:
    if not AXE.is_file():
        lacking("axe-core is not installed; run npm ci")
    page.evaluate("document.getAnimations().forEach(one => one.finish())")
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text("utf-8"))
    return [one for scope in scopes for one in page.evaluate(RUN, scope)]


@pytest.fixture(params=["light", "dark"])
def themed(page: Any, request: pytest.FixtureRequest) -> Any:
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", request.param == "dark")
    return page


def test_the_first_visit(themed: Any) -> None:
    assert findings(themed, TAB) == []


def test_one_lora_with_its_result_its_menu_and_all_of_advanced(themed: Any) -> None:
    row(themed, "pastry-sdxl").locator('[data-action="unfold"]').click()
    row(themed, "pastry-sdxl").click()
    themed.click("#resize_lora_advanced summary")
    themed.click("#resize_lora_generate")
    expect(themed.locator(".resize-lora-result")).to_have_count(1)
    expect(themed.locator(".resize-lora-toast")).not_to_have_count(0)
    expect(themed.locator("#resize_lora_plot svg")).to_be_visible()
    assert findings(themed, TAB) == []
    themed.locator('.resize-lora-result [data-action="menu"]').click()
    assert findings(themed, "#resize_lora_menu") == []


def test_a_selection_and_a_run_that_fails_in_part(themed: Any) -> None:
    ask(themed, "estimate")
    for _ in range(6):
        ask(themed, "status")
    ask(themed, "appear", {"name": "twin", "mib": 30, "same_name": [{"folder": "old", "bytes": 20 << 20}]})
    themed.click("#resize_lora_refresh")
    expect(row(themed, "twin")).to_be_visible()
    themed.check("#resize_lora_all")
    expect(themed.locator("#resize_lora_sum_plot svg")).to_be_visible()
    ask(themed, "resize", {"names": ["broken"], "target": {"preset": "low"}})
    themed.click("#resize_lora_generate")
    expect(themed.locator(".resize-lora-failed")).not_to_have_count(0)
    expect(themed.locator(".resize-lora-run")).to_be_visible()
    assert findings(themed, TAB) == []


@pytest.mark.parametrize("opener", ["bake", "extract"])
def test_dialogs(themed: Any, opener: str) -> None:
    themed.click(f"#resize_lora_{opener}")
    expect(themed.locator("dialog")).to_be_visible()
    if opener == "bake":
        themed.fill("#resize_lora_bake_prompt", "<lora:pastry-sdxl:1> <lora:nobody:1>")
        expect(themed.locator("#resize_lora_bake_plan strong")).to_be_visible()
    assert findings(themed, "dialog") == []


def test_a_phone(phone: Any) -> None:
    setup(phone)
    row(phone, "pastry-sdxl").tap()
    expect(phone.locator("#resize_lora_plot svg")).to_be_visible()
    assert findings(phone, TAB) == []
