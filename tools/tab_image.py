"""Take docs/images/tab.png from a running tab. Needs Playwright and a Chromium.

    resize-lora ui --lora-dir loras
    python -m tools.tab_image http://127.0.0.1:7867/ outline_r64 thick_lines_r32

The named LoRAs are resized to Medium, the first one last; the image shows it selected, with the results below.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.chromium import chromium
from tests.panel_page import row

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "tab.png"
SIZE: Any = {"width": 1320, "height": 1300}
MARGIN = 12


def take(address: str, names: list[str]) -> None:
    """Resize the named LoRAs in the tab at `address`, and write the image."""
    with chromium(urlsplit(address).hostname or "") as browser:
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
        page.goto(address)
        for name in reversed(names):
            _resize(page, name)
        page.mouse.move(2, 2)
        for note in reversed(page.locator(".resize-lora-toast").all()):
            note.get_by_role("button", name="Close").click()
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGE, clip=_clip(page))


def _resize(page: Any, name: str) -> None:
    """Select one LoRA, resize it, and wait for its result."""
    results = page.locator("#resize_lora_results .resize-lora-result")
    row(page, name).locator(".resize-lora-title").click()
    page.wait_for_selector("#resize_lora_plot svg")
    before = results.count()
    page.get_by_role("button", name="Resize", exact=True).click()
    results.nth(before).wait_for()
    page.wait_for_timeout(1500)


def _clip(page: Any) -> dict[str, float]:
    """Return the part of the page that the image shows: the tab with a margin."""
    tab, results = (page.locator(f"#resize_lora_{name}").bounding_box() for name in ("root", "results"))
    bottom = results["y"] + results["height"] + MARGIN
    return {"x": tab["x"] - MARGIN, "y": 0, "width": tab["width"] + 2 * MARGIN, "height": bottom}


if __name__ == "__main__":
    take(sys.argv[1], sys.argv[2:])
