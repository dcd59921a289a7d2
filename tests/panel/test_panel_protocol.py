"""The declaration of the protocol holds: for the page of the documentation, and for every answer of the service."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from lib_resize.panel import methods
from lib_resize.panel.faults import Fault
from lib_resize.panel.lora_warnings import TEMPLATES
from lib_resize.panel.methods import ANSWERS
from lib_resize.panel.options import Options, read_options
from lib_resize.panel.preferences import Preferences
from lib_resize.panel.protocol.errors import ERRORS
from lib_resize.panel.protocol.methods import JOB_RESULTS, METHODS
from lib_resize.panel.protocol.objects import DEFAULTS, IMAGE_SETTINGS, JOB, OPTIONS, WARNINGS
from lib_resize.panel.protocol.types import Field, Integer, ListOf, Number, Text, read_object
from lib_resize.panel.service import Service
from tests.panel import protocol_page
from tests.panel.conversation import Conversation
from tests.panel.declared import answer_faults, objects_of
from tests.panel.panelhost import Browser, fake_host

PAGE = protocol_page.PAGE.read_text("utf-8")
PANEL = Path(methods.__file__).parents[1]


# The page --------------------------------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_made_from_the_declaration() -> None:
    assert protocol_page.rendered(PAGE) == PAGE, "run python tests/panel/protocol_page.py"


def test_the_page_has_a_section_for_each_method_in_their_order() -> None:
    headings = re.findall(r"^### ([a-z_]+)$", PAGE[PAGE.index("## Methods") :], re.MULTILINE)
    assert headings == list(METHODS)
    assert [name for name in protocol_page.parts(PAGE) if name in METHODS] == headings


def test_the_page_has_each_object_once_and_every_link_leads_to_one() -> None:
    headings = Counter(heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE))
    assert [heading for heading, count in headings.items() if count > 1] == []
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings.keys()


def test_objects_of_the_same_name_are_the_same() -> None:
    types = [field.type for method in METHODS.values() for field in (*method.parameters, *method.result.fields)]
    found = {one for type in (*types, *JOB_RESULTS.values()) for one in objects_of(type)}
    assert len({one.name for one in found}) == len(found)


# The code --------------------------------------------------------------------------------------------------------


def test_every_method_is_answered_by_the_module_of_its_subject() -> None:
    assert list(ANSWERS) == list(METHODS)
    for name, answer in ANSWERS.items():
        assert answer.__module__ == f"{methods.__name__}.{METHODS[name].subject}"


def test_every_kind_of_error_and_warning_that_the_code_has_is_declared() -> None:
    source = "".join(path.read_text("utf-8") for path in PANEL.rglob("*.py"))
    kinds = set(re.findall(r'Fault\(\s*"([a-z_]+)"', source)) | set(re.findall(r'Error, "([a-z_]+)"\)', source))
    assert len(kinds) > 8
    assert kinds <= ERRORS.keys()
    assert TEMPLATES.keys() == WARNINGS.keys()


def test_defaults_are_declared_once() -> None:
    assert read_options({}, remote=False) == Options()
    assert Preferences().to_json().keys() == {field.name for field in DEFAULTS.fields}


def test_jobs_have_the_kinds_of_the_methods_that_start_them() -> None:
    (kind,) = (field.type for field in JOB.fields if field.name == "kind")
    assert isinstance(kind, Text)
    assert set(kind.choices) == JOB_RESULTS.keys()


# The answers -----------------------------------------------------------------------------------------------------


def test_every_answer_of_the_service_has_the_declared_fields(browser: Browser) -> None:
    conversation = Conversation(browser)
    conversation.hold()
    assert conversation.faults == []
    assert conversation.asked == METHODS.keys()


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({"ok": True, "message": "", "column": 0, "full": None}, "missing"),
        ({"ok": True, "message": "", "column": 0, "full": None, "needs_base": False, "more": 1}, "not declared"),
        ({"ok": True, "message": "", "column": "0", "full": None, "needs_base": False}, "not integer"),
        ({"ok": None, "message": "", "column": 0, "full": None, "needs_base": False}, "not boolean"),
    ],
)
def test_an_answer_with_other_fields_is_found(answer: dict[str, Any], word: str) -> None:
    (fault,) = answer_faults("check_recipe", {"result": answer})
    assert word in fault


class CountingHost:
    """Passes all questions on, and counts those for lists that a thread of calls asks."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._thread = threading.get_ident()
        self.looks: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in ("loras", "checkpoints", "lora_roots") and threading.get_ident() == self._thread:
            self.looks[name] += 1
        return getattr(self._host, name)


class CountingService:
    """Notes the methods that ask for a list more than once."""

    def __init__(self, service: Service, host: CountingHost) -> None:
        self._service = service
        self._host = host
        self.repeated: set[str] = set()

    def call(self, text: str) -> str:
        self._host.looks.clear()
        answer = self._service.call(text)
        if max(self._host.looks["loras"], self._host.looks["checkpoints"]) > 1:
            self.repeated.add(json.loads(text)["method"])
        return answer


def test_no_method_asks_the_host_for_a_list_twice(root: Path, tmp_path: Path) -> None:
    host = CountingHost(fake_host(root))
    service = Service(host, tmp_path / "cache" / "library.json")
    counting = CountingService(service, host)
    service.desk.folders.without(f"{root}/x")  # lists the folders that messages may not have, once for all calls
    Conversation(Browser(cast(Service, counting))).hold()
    service.close()
    service.desk.queue.join()
    service.desk.library.join()
    assert counting.repeated == set()


# The questions ---------------------------------------------------------------------------------------------------

FIELDS = (
    Field("name", Text()),
    Field("names", ListOf(Text(longest=5), 2), "", None),
    Field("kind", Text(("a", "b")), "", "a"),
    Field("count", Integer(1, 5), "", 3),
    Field("share", Number(), "", 1.0),
    Field("seeds", Integer(choices=(1, 2, 4)), "", 4),
)


def test_values_that_are_missing_or_null_have_their_defaults() -> None:
    expected = {"name": "x", "names": None, "kind": "a", "count": 3, "share": 1.0, "seeds": 4}
    assert read_object({"name": "x"}, FIELDS, "params") == expected
    assert read_object({"name": "x", "kind": None, "share": None}, FIELDS, "params") == expected


def test_a_list_has_each_item_once() -> None:
    assert read_object({"name": "x", "names": ["b", "a"]}, FIELDS, "params")["names"] == ["b", "a"]
    assert read_object({"name": "x", "names": ["b", "b"]}, FIELDS, "params")["names"] == ["b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "params: expected an object, found list"),
        ({}, "params: name is missing"),
        ({"name": 5}, "params: name must be a text of at most 10000 characters, found 5"),
        ({"name": "x", "other": 1}, "params: unknown 'other'"),
        ({"name": "x", "names": []}, "params: names must be a list of 1 to 2 texts"),
        ({"name": "x", "names": ["123456"]}, "params: names must be a list of 1 to 2 texts"),
        ({"name": "x", "kind": "c"}, "params: kind must be one of a, b, found 'c'"),
        ({"name": "x", "count": 6}, "params: count must be a whole number from 1 to 5, found 6"),
        ({"name": "x", "count": True}, "params: count must be a whole number from 1 to 5, found True"),
        ({"name": "x", "seeds": 3}, "params: seeds must be one of 1, 2, 4, found 3"),
        ({"name": "x", "seeds": True}, "params: seeds must be one of 1, 2, 4, found True"),
        ({"name": "x", "share": float("inf")}, "params: share must be a number, found inf"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(values: Any, message: str) -> None:
    with pytest.raises(Fault, match=f"^{re.escape(message)}") as refused:
        read_object(values, FIELDS, "params")
    assert refused.value.kind == "request"


def test_the_schema_of_a_number_has_its_choices_or_its_limits() -> None:
    assert Integer(choices=(1, 2, 4)).schema == {"type": "integer", "enum": [1, 2, 4]}
    assert Integer(1, 5).schema == {"type": "integer", "minimum": 1, "maximum": 5}


def test_exactly_one_of_several_parameters_is_given() -> None:
    for method, params in (("plan", {"name": "x"}), ("restore", {"result": "a", "item": "b"}), ("cancel", {})):
        with pytest.raises(Fault, match="give either"):
            METHODS[method].read(params)
    assert METHODS["bake"].read({"prompt": "x"})["recipe"] is None


def test_options_and_settings_are_parameters_with_defaults() -> None:
    for fields in (OPTIONS.fields, IMAGE_SETTINGS.fields):
        assert read_object({}, fields, "x").keys() == {field.name for field in fields}
