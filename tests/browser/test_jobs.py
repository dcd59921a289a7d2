"""Jobs as the page follows them: whose they are, what stops them, and what happens when the server does not answer."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.browser_kit import ask, expect, heard, open_advanced, press, row, setup

TOASTS = "#resize_lora_toasts"


def begin(page: Any, name: str) -> None:
    row(page, name).click()
    page.click("#resize_lora_generate")
    expect(job(page, name)).to_have_count(1)


def job(page: Any, name: str) -> Any:
    return page.locator(f'.resize-lora-job[data-kind="resize"][data-name="{name}"]')


def asked(page: Any, method: str) -> list[dict[str, Any]]:
    return [one["params"] for one in heard(page) if one["method"] == method]


def active(page: Any) -> list[str]:
    jobs = ask(page, "status")["queue"]
    return [one["name"] for one in jobs if one["kind"] == "resize" and one["state"] in ("queued", "running", "waits")]


def test_escape_in_a_field_a_choice_or_a_dialog_stops_nothing(page: Any) -> None:
    setup(page, paused=True)
    begin(page, "hogs")
    open_advanced(page)
    for field in ("search", "number", "recipe", "family", "meaning"):
        page.focus(f"#resize_lora_{field}")
        page.keyboard.press("Escape")
    page.click("#resize_lora_bake")
    page.keyboard.press("Escape")
    row(page, "hogs").click(button="right")
    page.keyboard.press("Escape")
    assert asked(page, "cancel") == []
    assert active(page) == ["hogs"]
    page.focus("#resize_lora_list")
    page.keyboard.press("Escape")
    expect(page.locator("#resize_lora_queue")).to_be_hidden()


def test_escape_leaves_jobs_of_other_pages_and_knows_its_own_after_a_reload(page: Any) -> None:
    setup(page, paused=True)
    ask(page, "resize", {"names": ["hogs"], "target": {"preset": "low"}})
    begin(page, "dpo")
    expect(job(page, "hogs")).to_contain_text("started elsewhere")
    expect(job(page, "dpo")).not_to_contain_text("started elsewhere")
    page.reload(wait_until="commit")
    expect(job(page, "dpo")).to_have_count(1)
    page.focus("#resize_lora_list")
    page.keyboard.press("Escape")
    expect(job(page, "dpo")).to_have_count(0)
    expect(page.locator("#resize_lora_interrupt")).to_be_disabled()
    assert active(page) == ["hogs"]
    job(page, "hogs").get_by_role("button").click()
    expect(job(page, "hogs")).to_have_count(0)


def test_a_batch_that_is_stopped_says_what_was_stopped_and_goes_on_when_asked(page: Any, shot: Any) -> None:
    setup(page, slow=1)
    page.locator("#resize_lora_low").check(force=True)
    page.check("#resize_lora_all")
    ask(page, "set", {"paused": 1})
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-job")).to_have_count(6)
    ask(page, "set", {"paused": False})
    expect(page.locator(".resize-lora-result")).not_to_have_count(0)
    ask(page, "set", {"paused": 1})
    page.focus("#resize_lora_list")
    page.keyboard.press("Escape")
    stopped = page.locator(".resize-lora-toast").filter(has_text="cancelled")
    expect(stopped).to_be_visible()
    counts = re.search(r"(\d) done, (\d) cancelled: (.+?)\s*Continue", stopped.inner_text(), re.S)
    assert counts is not None
    done, left, names = counts.groups()
    assert int(done) >= 1
    assert int(done) + int(left) == 6
    shot(page, "batch-stopped")
    ask(page, "set", {"paused": False})
    stopped.get_by_role("button", name="Continue").click()
    expect(page.locator(".resize-lora-result")).to_have_count(6)
    first, second = asked(page, "resize")
    assert second == {**first, "names": second["names"]}
    assert second["names"] == first["names"][int(done) :]
    assert names.strip().startswith(second["names"][0])


def test_the_same_order_is_recognised_and_repeated_only_on_request(page: Any) -> None:
    setup(page, slow=1)
    row(page, "pastry-sdxl").click()
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    page.click("#resize_lora_generate")
    note = page.locator(".resize-lora-toast").filter(
        has_text="was already resized with these settings: pastry-sdxl_47mb"
    )
    expect(note).to_be_visible()
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    note.get_by_role("button", name="Resize again").click()
    expect(page.locator(".resize-lora-result")).to_have_count(2)
    assert [one.get("again") for one in asked(page, "resize")] == [None, None, True]


def test_a_status_that_fails_is_asked_again_until_the_job_has_ended(page: Any) -> None:
    setup(page, slow=2)
    ask(page, "set", {"faults": {"status": 3}})
    row(page, "hogs").click()
    page.click("#resize_lora_generate")
    expect(page.locator(TOASTS)).to_contain_text("Retrying")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    expect(page.locator(TOASTS)).not_to_contain_text("Retrying")


def test_a_page_whose_first_status_fails_can_be_used_and_asks_again(page: Any) -> None:
    setup(page, faults={"status": 2})
    expect(page.locator(TOASTS)).to_contain_text("Retrying")
    row(page, "hogs").click()
    expect(page.locator("#resize_lora_generate")).to_be_enabled()
    expect(page.locator(TOASTS)).not_to_contain_text("Retrying")


def test_a_page_older_than_its_server_reports_it_and_reloads(page: Any) -> None:
    setup(page, slow=1)
    row(page, "hogs").click()
    page.click("#resize_lora_generate")
    result = page.locator(".resize-lora-result")
    expect(result).to_have_count(1)
    expect(page.locator("#resize_lora_plot svg")).to_be_visible()
    expect(page.locator("#resize_lora_interrupt")).to_be_disabled()
    page.wait_for_timeout(1500)  # the page asks for nothing any more, so that Undo is what finds the new server
    ask(page, "restart")
    press(page, result, "undo")
    note = page.locator(".resize-lora-toast").filter(has_text="The server was restarted")
    expect(note).to_have_count(1)
    expect(result).to_have_attribute("data-state", "there")  # the old answer was refused, and nothing was moved
    expect(page.locator('.resize-lora-row[aria-selected="true"]')).to_contain_text("hogs")
    press(page, result, "undo")
    expect(result).to_have_attribute("data-state", "trashed")
    expect(note).to_have_count(1)
    sessions = [one.get("session") for one in heard(page) if one["method"] == "undo"]
    assert len(set(sessions)) == 2
    assert None not in sessions


def test_a_page_that_only_follows_its_job_notices_a_new_server(page: Any) -> None:
    setup(page, paused=True)
    begin(page, "hogs")
    ask(page, "restart")
    expect(page.locator(".resize-lora-toast").filter(has_text="The server was restarted")).to_have_count(1)
    expect(page.locator("#resize_lora_queue")).to_be_hidden()
    assert [one["method"] for one in heard(page)].count("hello") == 2


def test_a_result_is_there_whenever_its_job_ended(page: Any) -> None:
    """Between the page's first questions; and where ended jobs are kept no more."""
    setup(page, slow=1)
    ask(page, "resize", {"names": ["hogs"], "target": {"preset": "low"}})
    page.reload(wait_until="commit")  # the first status ends the job, after `results` was answered
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    ask(page, "resize", {"names": ["dpo"], "target": {"preset": "low"}})
    ask(page, "status")
    ask(page, "forget_jobs")
    begin_at = page.locator(".resize-lora-result")
    row(page, "pastry-sdxl").click()
    page.click("#resize_lora_generate")
    expect(begin_at).to_have_count(3)


def test_a_comparison_counts_pictures_and_can_be_stopped(page: Any) -> None:
    setup(page, slow=1)
    row(page, "pastry-sdxl").click()
    page.click("#resize_lora_generate")
    result = page.locator(".resize-lora-result")
    expect(result).to_have_count(1)
    expect(page.locator("#resize_lora_plot svg")).to_be_visible()
    ask(page, "set", {"slow": 3, "paused": 1})
    press(page, result, "compare")
    compared = page.locator(".resize-lora-job").filter(has_text="Compare")
    expect(compared).to_be_visible()
    ask(page, "set", {"paused": 0})
    ask(page, "status")
    ask(page, "set", {"paused": 1})
    expect(compared).to_contain_text(re.compile(r"image [23] of 4"))
    expect(compared).not_to_contain_text("layer")
    compared.get_by_role("button").click()
    expect(compared).to_have_count(0)
    expect(page.locator("dialog")).to_have_count(0)
