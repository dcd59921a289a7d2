"""*Shrink library* by images: the target, the prompts, what it costs, the fit, and the report."""

# ruff: noqa: RUF001 (figures as the page shows them)
from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import ask, drawn, expect
from tests.browser.test_accessibility import findings
from tests.browser.test_find import FEATURES, TAGGED, in_host, overflow
from tests.browser.test_runs import DIALOG, RUN, act, asked, estimated, report, shrunk, sums

ONE_GRADIO = True  # see conftest.py

ROW = "#resize_lora_shrink_by_images"


def opened(page: Any) -> Any:
    page.click("#resize_lora_shrink")
    box = page.locator(DIALOG)
    expect(box).to_have_attribute("aria-busy", "false")
    return box


def by_images(page: Any, **settings: Any) -> Any:
    """The dialog with the choice *By images*, next to txt2img with a prompt and a size."""
    estimated(page, **settings)
    in_host(page, TAGGED)
    box = opened(page)
    act(box, "preset-images").check()
    expect(box).to_have_attribute("aria-busy", "false")
    return box


def test_the_choice_shows_its_questions_and_its_cost(page: Any, shot: Any) -> None:
    box = by_images(page)
    expect(page.locator(ROW)).to_be_visible()
    assert sums(box, "images") == "By images 6 the smallest file of each LoRA that draws the same"
    expect(box).to_contain_text("6 LoRAs, 2.07 GB. Their new sizes are found by images.")
    expect(act(box, "estimate")).to_be_hidden()
    expect(page.locator("#resize_lora_shrink_prompt")).to_have_value("{trigger}, a cake, fog")
    expect(page.locator("#resize_lora_shrink_negative")).to_have_value("blurry")
    expect(box).to_contain_text("The prompt of a LoRA's example image comes first.")
    expect(box).to_contain_text("Settings of txt2img: 1024×768 · 20 steps")
    cost = page.locator("#resize_lora_shrink_cost")
    expect(cost).to_contain_text("About 23 images for each LoRA, 138 together.")
    page.select_option("#resize_lora_shrink_seeds", "1")
    expect(cost).to_contain_text("About 8 images for each LoRA, 48 together.")
    expect(box.locator(".resize-lora-warnings")).to_contain_text("uses the CPU")
    assert overflow(page) == 0
    shot(page, "shrink-by-images")
    assert findings(page) == []
    page.evaluate("document.body.classList.add('dark')")
    assert findings(page) == []
    shot(page, "shrink-by-images-dark")
    page.evaluate("document.body.classList.remove('dark')")
    act(box, "preset-low").check()
    expect(page.locator(ROW)).to_be_hidden()


def test_the_time_is_known_once_an_image_was_measured(page: Any) -> None:
    box = by_images(page, image_pace=1e-6, pace=1e-3)
    # 138 images of 1024 x 768 pixels and 20 steps
    expect(page.locator("#resize_lora_shrink_cost")).to_contain_text("That takes about 36 min.")
    expect(box.get_by_role("status").last).to_have_text("about 36 min")


def test_the_run_asks_for_the_target_the_template_and_the_settings(page: Any) -> None:
    box = by_images(page)
    page.check("#resize_lora_shrink_goal_95")
    page.fill("#resize_lora_shrink_prompt", "portrait of {trigger}")
    page.fill("#resize_lora_shrink_negative", "")
    page.select_option("#resize_lora_shrink_seeds", "2")
    act(box, "run").click()
    expect(page.locator(f'{RUN}[data-state="done"]')).to_have_count(1)
    (sent,) = asked(page, "shrink")
    assert sent["target"] == {"effect": 0.95}
    assert sent["seeds"] == 2
    assert sent["settings"]["prompt"] == "portrait of {trigger}"
    assert sent["settings"]["negative_prompt"] == ""
    assert (sent["settings"]["width"], sent["settings"]["steps"]) == (1024, 20)
    assert "fit" not in sent


@pytest.mark.parametrize("text", ["49", "100", ""])
def test_an_own_value_that_is_none_cannot_be_run(page: Any, text: str) -> None:
    box = by_images(page)
    page.check("#resize_lora_shrink_goal_own")
    field = page.locator("#resize_lora_shrink_own")
    field.fill(text)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(act(box, "run")).to_be_disabled()
    expect(box.get_by_role("alert").last).to_have_text("Enter a percentage from 50 to 99.9.")
    field.fill("97.5")
    act(box, "run").click()
    expect(page.locator(RUN)).to_have_count(1)
    assert asked(page, "shrink")[0]["target"] == {"effect": 0.975}


def test_a_host_without_images_has_the_choice_disabled_with_the_reason(page: Any) -> None:
    estimated(page, features=["prompt", "cards", "loaded_model", "xyz"])
    box = opened(page)
    expect(act(box, "preset-images")).to_be_disabled()
    row = box.locator('tr[data-key="images"]')
    expect(row).to_contain_text("Image generation is not available here.")
    row.click()
    expect(page.locator(ROW)).to_be_hidden()
    expect(act(box, "preset-medium")).to_be_checked()
    expect(page.locator("#resize_lora_shrink_fit")).to_have_count(0)


def test_the_fit_is_asked_for_with_the_prompts_and_without_a_target(page: Any) -> None:
    estimated(page, features=FEATURES)
    in_host(page, TAGGED)
    box = opened(page)
    expect(page.locator(ROW)).to_be_hidden()
    page.check("#resize_lora_shrink_fit")
    expect(page.locator("#resize_lora_shrink_prompt")).to_be_visible()
    expect(page.locator("#resize_lora_shrink_goal_95")).to_be_hidden()
    expect(page.locator("#resize_lora_shrink_seeds")).to_be_hidden()
    expect(page.locator("#resize_lora_shrink_cost")).to_contain_text("About 6 images for each LoRA, 30 together.")
    act(box, "run").click()
    expect(page.locator(f'{RUN}[data-state="done"]')).to_have_count(1)
    (sent,) = asked(page, "shrink")
    assert (sent["fit"], sent["target"], sent["settings"]["prompt"]) == (
        True,
        {"preset": "medium"},
        "{trigger}, a cake, fog",
    )
    assert "seeds" not in sent
    assert asked(page, "shrink_plan")[-1]["fit"] is True
    expect(page.locator(f"{RUN} strong").first).to_contain_text("Medium · fitted ·")


def test_a_run_by_images_with_a_fit_asks_for_both(page: Any) -> None:
    box = by_images(page, features=FEATURES)
    page.check("#resize_lora_shrink_fit")
    expect(page.locator("#resize_lora_shrink_cost")).to_contain_text("About 33 images for each LoRA")
    act(box, "run").click()
    expect(page.locator(RUN)).to_have_count(1)
    (sent,) = asked(page, "shrink")
    assert (sent["fit"], sent["target"]) == (True, {"effect": 0.98})


def test_a_run_without_images_sends_no_prompt(page: Any) -> None:
    shrunk(page, features=FEATURES)
    (sent,) = asked(page, "shrink")
    assert {"settings", "seeds", "fit"}.isdisjoint(sent)


def test_progress_is_in_loras_and_images(page: Any) -> None:
    box = by_images(page)
    ask(page, "set", {"paused": True})
    act(box, "run").click()
    expect(page.locator(DIALOG)).to_have_count(0)
    ask(page, "set", {"paused": False})
    text = page.locator(f"{RUN} [role=status]")
    expect(text).to_contain_text("of about 23")
    expect(text).to_contain_text("of 8 LoRAs")
    expect(page.locator(f'{RUN}[data-state="done"]')).to_have_count(1)


def test_the_report_has_target_kept_and_worst_and_why_a_lora_was_left(page: Any, shot: Any, tmp_path: Path) -> None:
    box = by_images(page, weak_prompts=["hogs"], unreached=["dpo"])
    act(box, "run").click()
    expect(page.locator(f'{RUN}[data-state="done"]')).to_have_count(1)
    expect(page.locator(f"{RUN} strong").first).to_contain_text("By images, 98.0 % ·")
    box = report(page)
    expect(box.locator('.resize-lora-run-figure[data-key="target"]')).to_have_text("98.0 %")
    lines = {one: box.locator(f'.resize-lora-item[data-key="{one}"]') for one in ("pastry-sdxl", "hogs", "dpo")}
    expect(lines["pastry-sdxl"]).to_contain_text("Effect kept: 97.8 %, worst image 96.1 %")
    expect(lines["hogs"]).to_contain_text("The prompt hardly shows the LoRA")
    expect(lines["dpo"]).to_contain_text("No size keeps enough of the effect · Effect kept: 91.2 %, worst image 88.0 %")
    shot(page, "shrink-by-images-report")
    with page.expect_download() as download:
        act(box, "csv").click()
    download.value.save_as(tmp_path / "run.csv")
    rows = list(csv.DictReader((tmp_path / "run.csv").read_text("utf-8-sig").splitlines()))
    (made,) = [one for one in rows if one["name"] == "pastry-sdxl"]
    assert (made["effect"], made["worst"]) == ("0.978", "0.961")


def test_it_fits_a_phone(page: Any, shot: Any) -> None:
    box = by_images(page, features=FEATURES)
    page.set_viewport_size({"width": 390, "height": 844})
    page.check("#resize_lora_shrink_goal_own")
    expect(box).to_be_visible()
    assert overflow(page) == 0
    shot(page, "shrink-by-images-phone")


def test_the_choice_is_kept_out_of_a_reload(page: Any) -> None:
    """The dialog begins with the preset of the tab: images cost time, so they are chosen each time."""
    by_images(page)
    page.reload(wait_until="commit")
    drawn(page)
    expect(act(opened(page), "preset-medium")).to_be_checked()
