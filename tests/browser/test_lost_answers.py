"""An order whose answer does not come in time, with a clock that runs fast."""

from __future__ import annotations

from typing import Any

from tests.browser.browser_kit import ask, expect, row, setup, until_heard
from tests.browser.test_jobs import asked, job


def test_an_order_without_an_answer_is_looked_for_and_not_given_twice(page: Any) -> None:
    setup(page, slow=1)
    row(page, "hogs").click()
    expect(page.locator(".resize-lora-figures")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#resize_lora_plot svg")).to_be_visible()
    ask(page, "set", {"kept": ["resize"], "paused": True})
    page.clock.install()
    page.click("#resize_lora_generate")
    until_heard(page, "resize", 1)
    page.clock.fast_forward(181_000)
    page.wait_for_function(f"!{box('request')}.includes('resize')")  # Gradio drops it: another question is under way
    ask(page, "set", {"kept": []})
    page.wait_for_function(f"'refused' in (JSON.parse({box('reply')}).result || {{}})")  # too late, for Gradio alone
    page.clock.fast_forward(61_000)  # longer than the timeout of any question that Gradio dropped
    expect(job(page, "hogs")).to_have_count(1)
    expect(job(page, "hogs")).not_to_contain_text("started elsewhere")
    expect(page.locator("#resize_lora_generate")).to_be_enabled()
    assert len(asked(page, "resize")) == 1
    expect(page.locator(".resize-lora-toast")).to_have_count(0)


def box(name: str) -> str:
    """Return the content of one of the two textboxes between page and server."""
    return f"document.querySelector('#resize_lora_{name} textarea').value"
