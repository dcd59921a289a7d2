"""An order whose answer does not come in time, with a clock that runs fast."""

from __future__ import annotations

from typing import Any

from browser_kit import expect, row, setup
from test_jobs import active, asked, job


def test_an_order_without_an_answer_is_looked_for_and_not_given_twice(page: Any) -> None:
    setup(page, lags={"resize": 3}, paused=True)
    page.clock.install()
    row(page, "hogs").click()
    expect(page.locator("#resize_lora_generate")).to_be_enabled()
    page.click("#resize_lora_generate")
    expect(page.locator("#resize_lora_generate")).to_be_disabled()
    page.wait_for_timeout(1000)
    assert active(page) == ["hogs"]
    page.clock.fast_forward(181_000)
    page.wait_for_timeout(3000)  # the old answer comes, and nobody waits for it
    page.clock.fast_forward(61_000)  # Gradio drops a question that is sent while another one is open: an analysis here
    page.wait_for_timeout(1000)
    page.clock.fast_forward(16_000)  # or a status, which is asked for again
    expect(job(page, "hogs")).to_have_count(1)
    expect(job(page, "hogs")).not_to_contain_text("started elsewhere")
    expect(page.locator("#resize_lora_generate")).to_be_enabled()
    assert len(asked(page, "resize")) == 1
    expect(page.locator(".resize-lora-toast")).to_have_count(0)
