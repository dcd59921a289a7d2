"""The stub that the page is tested with answers as the protocol declares, to the questions that it declares."""

from __future__ import annotations

import inspect
import json
import threading
from typing import Any, cast

import pytest

from lib_resize.panel.protocol.methods import METHODS
from lib_resize.panel.service import Service
from tests.browser import stub_service
from tests.panel.conversation import LOW, Conversation
from tests.panel.panelhost import Browser


@pytest.mark.parametrize("unloaded", [True, False])
def test_every_answer_of_the_stub_has_the_declared_fields(unloaded: bool) -> None:
    stub = stub_service.StubService()
    stub.reset(unloaded=unloaded)
    stub.files = {name: stub_service.file(name, 40.0) for name in ("pastry", "ink")}
    conversation = Conversation(Browser(cast(Service, stub)))
    conversation.hold()
    assert conversation.faults == []
    assert conversation.asked == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_the_stub_has_the_declared_parameters(name: str) -> None:
    found = inspect.signature(getattr(stub_service.StubService(), f"do_{name}")).parameters
    assert set(found) == {field.name for field in METHODS[name].parameters}


@pytest.mark.parametrize(
    "params", [{"more": 1}, {"names": "hogs"}, {"names": ["hogs"], "target": {}, "recipe": "rank=1"}]
)
def test_the_stub_refuses_what_the_service_refuses(params: dict[str, Any]) -> None:
    question = {"id": 1, "method": "resize", "params": params}
    assert json.loads(stub_service.StubService().call(json.dumps(question)))["error"]["kind"] == "request"


def test_a_question_of_the_test_before_changes_nothing_after_a_reset() -> None:
    stub = stub_service.StubService()
    stub.reset(held=["resize"])
    question = json.dumps({"id": 1, "method": "resize", "params": {"names": ["hogs"], **LOW}})
    answers: list[dict[str, Any]] = []
    late = threading.Thread(target=lambda: answers.append(json.loads(stub.call(question))))
    late.start()
    while not stub.heard:
        pass
    stub.reset()
    late.join(10)
    assert [one["error"]["kind"] for one in answers] == ["stale"]
    assert stub.jobs == {}
