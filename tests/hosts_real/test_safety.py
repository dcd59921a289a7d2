"""What users must not lose while the host works: names in the library, jobs, results, and undo."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts_real.kit import (
    card,
    cards_page,
    choose_anew,
    long_image,
    names,
    refresh_cards,
    reload_ui,
    resizable,
    resized,
    result_button,
    result_of,
    stop_image,
    wait_for,
)
from tests.hosts_real.rest import ENDED, Api, Rest, image_in_progress, refreshing, until
from tests.panel_page import ask, expect, open_advanced, open_tab

LOOKS = 30
COUNT_REFRESHES = """() => {
    window.cardRefreshes = [];
    document.querySelector('#txt2img_lora_extra_refresh_internal')
        .addEventListener('click', () => window.cardRefreshes.push(performance.now() / 1000)); }"""
SECONDS_BETWEEN_REFRESHES = 10


def test_the_list_keeps_its_names_while_the_host_reads_its_folders(webui: Any, host: Rest, api: Api) -> None:
    before = set(names(webui))
    with refreshing(host):
        seen = [look for _ in range(LOOKS) for look in (set(names(webui)), api.names())]
    assert [sorted(before - look) for look in seen if before - look] == []


def test_a_job_finds_its_lora_while_the_host_reads_its_folders(host: Rest, api: Api) -> None:
    sound = [one["name"] for one in api.files() if not one["problem"] and not one["ours"] and one["fits"] is not False]
    with refreshing(host):
        answers = [api.post("analyse", 202, names=[name]) for name in sound * 3]
        assert {api.done(one["job"])["state"] for one in answers} == {"done"}


@pytest.mark.needs("cards", "a1111_page", "generate")
def test_a_batch_refreshes_the_cards_seldom(webui: Any, host: Rest, api: Api) -> None:
    """A refresh redraws all cards: after the first and the last file of a batch, every ten seconds between."""
    name = resizable(webui)["name"]
    open_tab(webui, "resize_lora")
    choose_anew(webui, name)
    webui.evaluate(COUNT_REFRESHES)
    order = {"names": [name], "recipe": "rank=1:rank=2:rank=3:rank=4", "again": True}
    with image_in_progress(host, api):  # all jobs wait for its end, so that the queue does not run empty between them
        jobs = ask(webui, "resize", order)["jobs"]
        webui.locator("#resize_lora_generate").click()  # a page without jobs of its own does not follow others
        until(lambda: len(_active(webui)) == len(jobs) + 1, "all jobs in the queue")
        jobs = _active(webui)
        # A refresh before this moment was for an earlier batch: no file of this one exists yet.
        began = webui.evaluate("window.cardRefreshes.length = 0, performance.now() / 1000")
    wait_for(webui, jobs)
    until(lambda: webui.evaluate("window.cardRefreshes.length"), "a refresh of the cards")
    webui.wait_for_timeout(3000)
    clicks = webui.evaluate("window.cardRefreshes")
    assert len(clicks) <= 2 + (max(clicks) - began) // SECONDS_BETWEEN_REFRESHES


@pytest.mark.needs("generate", "prompt", "a1111_page")
def test_escape_in_a_text_field_stops_no_job(webui: Any) -> None:
    long_image(webui)
    try:
        open_tab(webui, "resize_lora")
        choose_anew(webui, resizable(webui)["name"])
        webui.locator("#resize_lora_generate").click()
        until(lambda: _active(webui), "the job")
        open_advanced(webui)
        for field in ("#resize_lora_search", "#resize_lora_recipe"):
            webui.locator(field).focus()
            webui.keyboard.press("Escape")
        webui.wait_for_timeout(1000)
        (job,) = _active(webui)
    finally:
        stop_image(webui)
    wait_for(webui, [job])


@pytest.mark.needs("a1111_page")
def test_undo_and_restore_outlive_reload_ui(webui: Any) -> None:
    made = resized(webui, resizable(webui)["name"])
    reload_ui(webui)
    again = _results(webui)[made["result"]]
    assert (again["output"], again["state"]) == (made["output"], "there")
    row = result_of(webui, made["output"])
    result_button(row, "undo").click()
    expect(row).to_have_attribute("data-state", "trashed")
    assert made["output"] not in names(webui)
    result_button(row, "restore").click()
    expect(row).to_have_attribute("data-state", "there")
    assert made["output"] in names(webui)


@pytest.mark.needs("a1111_page")
def test_ids_are_never_given_twice(webui: Any) -> None:
    """An undo from an older page cannot affect another file."""
    name = resizable(webui)["name"]
    before = set(_results(webui)) | {resized(webui, name, recipe="rank=1")["result"]}
    jobs = {one["id"] for one in ask(webui, "status")["queue"]}
    reload_ui(webui)
    (job,) = ask(webui, "resize", {"names": [name], "recipe": "rank=2", "again": True})["jobs"]
    wait_for(webui, [job])
    later = next(one["result"] for one in ask(webui, "status")["queue"] if one["id"] == job)
    assert job not in jobs
    assert later["result"] not in before


@pytest.mark.needs("cards", "a1111_page")
def test_the_trash_makes_no_folder_above_the_cards(webui: Any) -> None:
    name = resizable(webui)["name"]
    made = resized(webui, name)
    cards_page(webui)
    folders = _folders(webui)
    ask(webui, "undo", {"result": made["result"]})
    refresh_cards(webui)
    expect(card(webui, made["output"])).to_have_count(0)
    expect(card(webui, name)).to_have_count(1)
    assert _folders(webui) == folders
    assert not [one for one in folders if "trash" in one.lower()]


def _active(page: Any) -> list[str]:
    return [one["id"] for one in ask(page, "status")["queue"] if one["state"] not in ENDED and one["kind"] == "resize"]


def _results(page: Any) -> dict[str, Any]:
    return {one["result"]: one for one in ask(page, "results")["results"]}


def _folders(page: Any) -> list[str]:
    """Texts of the buttons for folders of LoRAs, in hosts that have them."""
    return list(page.locator("#txt2img_lora_dirs button").all_inner_texts())
