"""The spectra of a LoRA, as the page receives them."""

from __future__ import annotations

import json

import pytest


def test_a_job_returns_what_the_command_line_reports(browser, host) -> None:
    from lib_resize.studies.inspection import describe_closely

    lora = next(one for one in host.loras() if one.name == "pastry")
    id = browser.ask("spectra", name="pastry")["job"]
    table = browser.done(id)
    described = json.loads(json.dumps(describe_closely(lora.path)[1].as_json()))
    assert browser.job(id)["kind"] == "spectra"
    assert table == {**described, "name": "pastry"}
    for rows in (table["effective_rank"], table["layers"], table["bytes"]):
        assert [len(row) for row in rows] == [len(table["types"])] * len(table["blocks"])


def test_a_name_that_is_not_there_is_refused(browser) -> None:
    assert browser.reply("spectra", name="nobody")["error"]["kind"] == "file"


@pytest.mark.parametrize("extra", [{"recipe": "medium"}, {"path": "/etc/passwd"}])
def test_other_parameters_are_refused(browser, extra) -> None:
    assert browser.reply("spectra", name="pastry", **extra)["error"]["kind"] == "request"
