"""The stub that the page is tested with answers in the form of the real service: the same fields, of the same types."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stub_service

sys.path.append(str(Path(__file__).parents[1] / "panel"))

from panelhost import Browser, fake_host

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.panel.service import Service

MAPS = {"previews", "places", "blocks", "scores", "selections", "limits"}
"""Fields whose keys are names, not fields."""
LOW = {"target": {"preset": "low"}}


def shape(value: Any, name: str = "") -> Any:
    """Types in place of values; None where nothing is known."""
    if isinstance(value, dict):
        parts = {key: shape(part, key) for key, part in value.items()}
        return {"*": merged(list(parts.values()))} if name in MAPS else parts
    if isinstance(value, list):
        return [merged([shape(part) for part in value])]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return None if value is None else type(value).__name__


def merged(shapes: list[Any]) -> Any:
    known = [one for one in shapes if one is not None]
    if known and all(isinstance(one, dict) for one in known):
        return {key: merged([one.get(key) for one in known]) for key in {key: 0 for one in known for key in one}}
    if known and all(isinstance(one, list) for one in known):
        return [merged([one[0] for one in known])]
    return known[0] if known else None


def differences(real: Any, stub: Any, place: str) -> Iterator[str]:
    if real is None or stub is None:
        return
    if isinstance(real, dict) and isinstance(stub, dict):
        for key in real.keys() ^ stub.keys():
            yield f"{place}.{key}: only the {'service' if key in real else 'stub'} has it"
        for key in real.keys() & stub.keys():
            yield from differences(real[key], stub[key], f"{place}.{key}")
    elif isinstance(real, list) and isinstance(stub, list):
        yield from differences(real[0], stub[0], f"{place}[]")
    elif real != stub:
        yield f"{place}: {real} of the service, {stub} of the stub"


def talk(browser: Browser) -> dict[str, Any]:
    """One conversation with all methods: method -> its answer, and what its job came to."""
    told: dict[str, Any] = {}

    def ask(method: str, label: str = "", **params: Any) -> Any:
        answer = browser.reply(method, **params)
        told[label or method] = answer.get("result", answer.get("error"))
        return told[label or method]

    def job(method: str, **params: Any) -> Any:
        answer = ask(method, **params)
        told[f"{method}'s result"] = browser.done(answer["jobs"][0] if "jobs" in answer else answer["job"])
        return told[f"{method}'s result"]

    ask("hello")
    told["library"] = {
        "files": list(browser.listed().values()),
        **{k: v for k, v in ask("library").items() if k != "files"},
    }
    ask("previews", names=["pastry"])
    ask("check_recipe", text="rank=8")
    ask("check_recipe", "a bad recipe", text="nonsense=1")
    job("analyse", names=["pastry"])
    ask("plan", name="pastry", **LOW)
    ask("plan", "a plan that is refused", name="pastry", target={"size": 0.001})
    ask("plan", "a plan without an analysis", name="ink", **LOW)
    made = job("resize", names=["pastry", "nobody"], **LOW)
    ask("resize", "the same again", names=["pastry"], **LOW)
    ask("status")
    ask("results")
    ask("prompt_tag", result=made["result"])
    ask("read_prompt", prompt="a cat <lora:pastry:0.5> <lora:nobody:1>")
    baked = job("bake", prompt="<lora:pastry:0.5> <lora:ink:1>", name="mix")
    ask("bake_into", result=baked["result"], prompt="a cat <lora:pastry:0.5>")
    ask("extract", **LOW)
    compared = job("compare", result=made["result"], settings={"prompt": "a cat"}, without=True)
    ask("picture", id=compared["pictures"][0]["id"])
    job("spectra", name="pastry")
    ask("analyse", "analyse of many", names=["pastry", "ink"])
    ask("cancel", jobs=[told["analyse of many"]["job"]])
    ask("undo", result=made["result"])
    item = ask("trash")["items"][0]
    ask("restore", item=item["item"])
    ask("undo", "undone once more", result=made["result"])
    ask("empty_trash", confirm=True)
    return told


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    root = tmp_path / "Lora"
    root.mkdir()
    write_lora(root / "pastry.safetensors", LoraOptions(rank=8, text_encoders=False, seed=1))
    write_lora(root / "ink.safetensors", LoraOptions(rank=4, text_encoders=False, seed=2))
    made = Service(fake_host(root), tmp_path / "cache" / "library.json")
    yield made
    made.close()
    made.desk.queue.join()
    made.desk.library.join()


def test_the_stub_answers_as_the_service_does(service: Service) -> None:
    stub = stub_service.StubService()
    stub.reset(unloaded=True)
    stub.files = {name: stub_service.file(name, 40.0) for name in ("pastry", "ink")}
    real, played = talk(Browser(service)), talk(Browser(stub))  # type: ignore[arg-type]
    asked = {method for method in service._methods if method in real}
    assert asked == set(service._methods)
    assert [text for method in real for text in differences(shape(real[method]), shape(played[method]), method)] == []


@pytest.mark.parametrize(
    ("stub", "said"), [({"a": 1}, "b"), ({"a": 1, "b": "x"}, "number"), ({"a": 1, "b": 1, "c": 1}, "c")]
)
def test_a_field_that_lacks_or_is_of_another_type_is_found(stub: dict[str, Any], said: str) -> None:
    (found,) = differences(shape({"a": 1, "b": 2}), shape(stub), "status")
    assert said in found


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
