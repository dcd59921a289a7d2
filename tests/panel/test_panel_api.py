"""The HTTP API over a made-up host: docs/api.md, route by route, and who may come in."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import Client
from panelhost import Browser

from lib_resize.files.header import read_header
from lib_resize.hosts.access import Access, access_of, is_loopback, read_users

fastapi = pytest.importorskip("fastapi", reason="FastAPI, which every host has, is not installed here")

from lib_resize.panel import api  # noqa: E402
from lib_resize.panel.gate import is_known  # noqa: E402
from lib_resize.panel.methods import ANSWERS  # noqa: E402
from lib_resize.panel.protocol.errors import ERRORS  # noqa: E402

HERE = Path(__file__).parent
DOCUMENT = (HERE.parents[1] / "docs" / "api.md").read_text("utf-8")
V1 = "/resize-lora/v1"
POSTS = [
    *("analyse", "plan", "resize", "cancel", "undo", "restore"),
    *("estimate", "shrink_plan", "shrink", "run_control", "restore_originals", "purge"),
]
GETS = ["hello", "list", "jobs", "job/j1", "results", "trash", "archive", "runs", "run?run=0123456789abcdef"]
ADMIN = "Basic " + base64.b64encode("admin:pass:wörd".encode()).decode()


def application(browser: Browser, access: Access | None = None) -> Any:
    app = fastapi.FastAPI()
    api.mount(app, browser.service.call, access or Access())
    return app


@pytest.fixture
def client(browser: Browser) -> Client:
    return Client(application(browser))


def done(client: Client, browser: Browser, id: str) -> Any:
    browser.wait(id)
    job = client.get(f"{V1}/job/{id}").json
    assert job["state"] == "done", job
    return job["result"]


# What it does ----------------------------------------------------------------------------------------------------


def test_a_file_is_listed_analysed_planned_made_undone_and_restored(
    client: Client, browser: Browser, root: Path
) -> None:
    assert {file["name"] for file in client.get(f"{V1}/list").json["files"]} == {"ink", "pastry"}
    begun = client.post(f"{V1}/analyse", {"names": ["pastry"]})
    assert begun.status == 202
    assert done(client, browser, begun.json["job"])["files"][0]["name"] == "pastry"

    asked = {"target": {"preset": "medium"}, "options": {"suffix": "_m"}}
    plan = client.post(f"{V1}/plan", {"name": "pastry", **asked})
    assert (plan.status, plan.json["output"]) == (200, "pastry_m")
    (job,) = client.post(f"{V1}/resize", {"names": ["pastry"], **asked}).json["jobs"]
    made = done(client, browser, job)
    path = root / "pastry_m.safetensors"
    assert path.stat().st_size == made["bytes_after"] == plan.json["bytes_after"]
    assert read_header(path).metadata["ss_output_name"] == "pastry_m"

    assert client.post(f"{V1}/undo", {"result": made["result"]}).json["result"]["state"] == "trashed"
    assert not path.exists()
    assert [item["name"] for item in client.get(f"{V1}/trash").json["items"]] == ["pastry_m"]
    assert client.post(f"{V1}/restore", {"result": made["result"]}).status == 200
    assert path.exists()
    assert [result["state"] for result in client.get(f"{V1}/results").json["results"]] == ["there"]


def test_a_job_that_waits_is_cancelled(client: Client, browser: Browser, host: Any) -> None:
    host.working_on = "a picture"
    (job,) = client.post(f"{V1}/resize", {"names": ["pastry"], "target": {"rank": 2}}).json["jobs"]
    (cancelled,) = client.post(f"{V1}/cancel", {"job": job}).json["cancelled"]
    assert (cancelled["job"], cancelled["name"], cancelled["recipe"]) == (job, "pastry", "rank=2")
    assert browser.wait(job)["state"] == "cancelled"
    assert client.get(f"{V1}/job/{job}").json["state"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("analyse", {"names": ["nobody"]}, 404, "file"),
        ("analyse", {"names": []}, 400, "request"),
        ("analyse", {"names": ["pastry"], "more": 1}, 400, "request"),
        ("analyse", {"names": ["../../etc/passwd"]}, 404, "file"),
        ("plan", {"name": "pastry", "target": {"preset": "low"}}, 409, "not_analysed"),
        ("plan", {"name": "pastry", "recipe": "tnr=3"}, 422, "recipe"),
        ("resize", {"names": ["nobody"], "target": {"preset": "low"}}, 404, "file"),
        ("resize", {"names": ["pastry"], "recipe": "fro_ckpt=1,thr=-3"}, 409, "reference"),
        ("resize", {"names": ["pastry"], "target": {"rank": 1}, "options": {"folder": "../.."}}, 400, "request"),
        ("cancel", {"job": "j99"}, 404, "gone"),
        ("undo", {"result": "r99"}, 404, "gone"),
        ("restore", {"item": "nothing"}, 404, "gone"),
        ("restore", {}, 400, "request"),
    ],
)
def test_an_error_has_a_status_a_kind_and_a_sentence(
    client: Client, path: str, body: Any, status: int, kind: str
) -> None:
    answer = client.post(f"{V1}/{path}", body)
    assert (answer.status, answer.kind) == (status, kind)
    assert answer.json["error"]["message"]


def test_an_unknown_job_is_gone_and_a_bad_revision_is_a_fault_of_the_question(client: Client) -> None:
    assert (client.get(f"{V1}/job/j99").status, client.get(f"{V1}/job/j99").kind) == (404, "gone")
    for query in ("since=x", "since=-1e5", f"since={'9' * 5000}", "other=1"):
        assert (client.get(f"{V1}/list?{query}").status, client.get(f"{V1}/list?{query}").kind) == (400, "request")


def test_of_several_names_those_that_are_known_are_made(client: Client) -> None:
    answer = client.post(f"{V1}/resize", {"names": ["nobody", "ink"], "target": {"rank": 1}})
    assert answer.status == 202
    assert len(answer.json["jobs"]) == 1
    assert [one["name"] for one in answer.json["refused"]] == ["nobody"]


def test_no_path_is_told(client: Client, browser: Browser, root: Path) -> None:
    browser.listed()
    answers = [client.get(f"{V1}/{path}") for path in GETS]
    answers += [client.post(f"{V1}/analyse", {"names": [str(root / "pastry")]})]
    assert not [answer for answer in answers if str(root.parent) in _without_archive(answer)]


def _without_archive(answer: Any) -> str:
    """The folder of the archive is shown on purpose, where the page is not remote."""
    found = answer.json
    for owner in (found, found.get("archive", {})):
        owner.pop("folder", None)
    return json.dumps(found)


# The form of requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_of_another_site_can_send_is_not_taken(client: Client, kind: str) -> None:
    answer = client.send("POST", f"{V1}/cancel", b'{"job": "j1"}', {"content_type": kind} if kind else {})
    assert answer.status == 415


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'"x"'])
def test_a_body_that_is_no_json_object_is_refused(client: Client, body: bytes) -> None:
    assert (client.post(f"{V1}/analyse", body).status, client.post(f"{V1}/analyse", body).kind) == (400, "request")


def test_a_body_without_end_is_not_read(client: Client) -> None:
    assert client.post(f"{V1}/analyse", b'{"names": ["' + b"x" * (5 << 20) + b'"]}').status == 413


def test_odd_names_come_back_as_they_went(client: Client) -> None:
    name = '猫 "q" \ud800'
    answer = client.post(f"{V1}/resize", {"names": [name], "target": {"rank": 1}})
    assert answer.json["refused"][0]["name"] == name


@pytest.mark.parametrize("path", POSTS)
def test_nothing_is_changed_by_a_get(client: Client, path: str) -> None:
    assert client.get(f"{V1}/{path}").status == 405


# Who may come in -------------------------------------------------------------------------------------------------


def statuses(client: Client, **headers: str) -> set[int]:
    return {client.get(f"{V1}/{path}", **headers).status for path in GETS} | {
        client.post(f"{V1}/{path}", {}, **headers).status for path in POSTS
    }


@pytest.fixture
def guarded(browser: Browser) -> Client:
    return Client(application(browser, Access(users=(("bob", "x"), ("admin", "pass:wörd")))))


def test_with_api_auth_nobody_comes_in_without(guarded: Client) -> None:
    assert statuses(guarded) == {401}
    assert guarded.get(f"{V1}/list").headers["www-authenticate"].startswith("Basic ")
    assert guarded.get(f"{V1}/list").kind == "login"


@pytest.mark.parametrize("text", ["bob:x", "admin:pass:wörd"])
def test_with_api_auth_each_of_its_users_comes_in_from_anywhere(browser: Browser, text: str) -> None:
    users = (("bob", "x"), ("admin", "pass:wörd"))
    app = application(browser, Access(users=users, exposed=True))
    client = Client(app, "my.house:7860", "192.168.1.9")
    header = "Basic " + base64.b64encode(text.encode()).decode()
    assert client.get(f"{V1}/list", authorization=header).status == 200
    assert client.post(f"{V1}/analyse", {"names": ["ink"]}, authorization=header).status == 202


WRONG = ["bob:", "bob:y", "bob", ":x", "bob:x ", "admin:pass", "admin:x", "bob:pass:wörd", "", "BOB:x", "bob:x:"]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_name_or_password_does_not_open(guarded: Client, text: str) -> None:
    assert statuses(guarded, authorization="Basic " + base64.b64encode(text.encode()).decode()) == {401}


@pytest.mark.parametrize("header", ["Basic", "Basic !!", "Bearer Ym9iOng=", "Basic Ym9iOng", "Ym9iOng=", "basic  "])
def test_a_header_that_is_no_basic_does_not_open(guarded: Client, header: str) -> None:
    assert guarded.get(f"{V1}/list", authorization=header).status == 401


def test_all_users_are_looked_at_whoever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time that does not depend on where a name is found, or how much of a password is right."""
    import hmac

    seen: list[int] = []
    real = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        seen.append(len(a) == len(b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    assert is_known("Basic " + base64.b64encode(b"a:1").decode(), (("a", "1"), ("b", "2"), ("c", "333")))
    assert seen == [True, True, True]


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("a:1", (("a", "1"),)),
        ("a:1,b:2", (("a", "1"), ("b", "2"))),
        ("a:1:2", (("a", "1:2"),)),
        ("a", ()),
        ("a,b:2", (("b", "2"),)),
    ],
)
def test_users_are_read_as_hosts_read_them(text: str, users: Any) -> None:
    assert read_users(text) == users


def test_users_that_cannot_be_read_are_nobody_and_not_everybody(browser: Browser) -> None:
    access = access_of(SimpleNamespace(api_auth="nonsense"), {})
    assert access.users == ()
    assert statuses(Client(application(browser, access))) == {401}


# With the page's login


def page(browser: Browser, access: Access, **fields: Any) -> Any:
    """An application with what Gradio's has."""
    app = fastapi.FastAPI()
    for name, value in fields.items():
        setattr(app, name, value)
    api.mount(app, browser.service.call, access)
    return app


GRADIO3 = {"auth": {"me": "pw"}, "tokens": {"t1": "me"}}
GRADIO4 = {**GRADIO3, "cookie_id": "abc", "auth_dependency": None}


@pytest.mark.parametrize(
    ("fields", "cookie"),
    [
        (GRADIO3, "access-token=t1"),
        (GRADIO3, "access-token-unsecure=t1"),
        (GRADIO3, "access-token=old; access-token-unsecure=t1"),
        (GRADIO4, "access-token-abc=t1"),
        (GRADIO4, "other=5; access-token-unsecure-abc=t1"),
    ],
)
def test_the_cookie_of_a_login_opens(browser: Browser, fields: Any, cookie: str) -> None:
    client = Client(page(browser, Access(login=True, exposed=True), **fields), "my.house", "10.0.0.5")
    assert statuses(client) == {401}
    assert client.get(f"{V1}/list", cookie=cookie).status == 200
    assert client.post(f"{V1}/analyse", {"names": ["ink"]}, cookie=cookie).status == 202


@pytest.mark.parametrize(
    ("fields", "cookie"),
    [
        (GRADIO3, "access-token=t2"),
        (GRADIO3, "access-token="),
        (GRADIO3, "access-token-abc=t1"),
        (GRADIO4, "access-token=t1"),
        (GRADIO4, "access-token-abc=None"),
        (GRADIO3, "access-token=me"),
    ],
)
def test_another_cookie_does_not(browser: Browser, fields: Any, cookie: str) -> None:
    assert statuses(Client(page(browser, Access(login=True), **fields)), cookie=cookie) == {401}


def test_a_login_that_somebody_else_put_before_the_page_counts(browser: Browser) -> None:
    assert statuses(Client(page(browser, Access(), **GRADIO3))) == {401}
    asked = page(browser, Access(), auth_dependency=lambda request: request.headers.get("x-user"))
    assert statuses(Client(asked)) == {401}
    assert Client(asked).get(f"{V1}/list", x_user="me").status == 200


def test_a_login_without_a_page_opens_to_nobody(browser: Browser) -> None:
    assert statuses(Client(page(browser, Access(login=True))), cookie="access-token=t1") == {401}


def test_with_both_only_api_auth_opens_as_in_the_hosts_own_api(browser: Browser) -> None:
    access = Access(users=(("admin", "pass:wörd"),), login=True)
    client = Client(page(browser, access, **GRADIO3))
    assert statuses(client, cookie="access-token=t1") == {401}
    assert client.get(f"{V1}/list", authorization=ADMIN).status == 200


# Without a login


def test_without_a_login_a_server_that_others_reach_tells_and_does_nothing(browser: Browser) -> None:
    client = Client(application(browser, Access(exposed=True)), "my.house:7860", "192.168.1.9")
    assert client.get(f"{V1}/list").status == 200
    assert {client.post(f"{V1}/{path}", {"names": ["ink"]}).kind for path in POSTS} == {"remote"}
    assert {client.post(f"{V1}/{path}", {"names": ["ink"]}).status for path in POSTS} == {403}
    here = Client(client.app)
    assert here.post(f"{V1}/analyse", {"names": ["ink"]}).status == 403, "a tunnel comes from this machine too"


@pytest.mark.parametrize(
    ("name", "address", "headers"),
    [
        ("127.0.0.1:7860", "192.168.1.9", {}),
        ("evil.example:7860", "127.0.0.1", {}),
        ("127.0.0.1.evil.example", "127.0.0.1", {}),
        ("[", "127.0.0.1", {}),
        ("127.0.0.1:7860", "127.0.0.1", {"x_forwarded_for": "127.0.0.1"}),
        ("127.0.0.1:7860", "127.0.0.1", {"forwarded": "for=1.2.3.4"}),
    ],
)
def test_without_a_login_it_is_for_this_machine_alone(
    browser: Browser, name: str, address: str, headers: dict[str, str]
) -> None:
    assert statuses(Client(application(browser), name, address), **headers) == {403}


@pytest.mark.parametrize("name", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.2"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_without_a_login_this_machine_comes_in(browser: Browser, name: str, address: str) -> None:
    assert Client(application(browser), name, address).post(f"{V1}/analyse", {"names": ["ink"]}).status == 202


# Other sites' pages


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://[:7860"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize("users", [None, (("admin", "pass:wörd"),)])
def test_another_sites_page_is_refused_even_with_a_password(
    browser: Browser, headers: dict[str, str], users: Any
) -> None:
    client = Client(application(browser, Access(users=users)))
    assert statuses(client, authorization=ADMIN, **headers) == {403}


def test_our_own_page_and_programs_are_not_another_site(client: Client) -> None:
    own = {"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"}
    assert client.post(f"{V1}/analyse", {"names": ["ink"]}, **own).status == 202
    assert client.get(f"{V1}/list", sec_fetch_site="none").status == 200


# What a command line means ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environment", "exposed"),
    [
        ({}, {}, False),
        ({"listen": True}, {}, True),
        ({"share": True}, {}, True),
        ({"ngrok": "token"}, {}, True),
        ({"server_name": "0.0.0.0"}, {}, True),
        ({"server_name": "my.house"}, {}, True),
        ({"server_name": "127.0.0.1"}, {}, False),
        ({"server_name": "localhost"}, {"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
        ({}, {"GRADIO_SERVER_NAME": "0.0.0.0"}, True),
        ({}, {"GRADIO_SHARE": "True"}, True),
    ],
)
def test_it_is_known_whether_others_can_reach_the_server(options: Any, environment: Any, exposed: bool) -> None:
    assert access_of(SimpleNamespace(**options), environment).exposed == exposed


@pytest.mark.parametrize("name", ["gradio_auth", "gradio_auth_path"])
def test_both_forms_of_the_pages_login_are_known(name: str) -> None:
    assert access_of(SimpleNamespace(**{name: "x"}), {}).login
    assert not access_of(SimpleNamespace(), {}).login


@pytest.mark.parametrize(
    ("name", "here"), [("127.0.0.1", 1), ("::1", 1), ("[::1]", 1), ("localhost", 1), ("::", 0), ("", 0), (None, 0)]
)
def test_loopback(name: Any, here: int) -> None:
    assert is_loopback(name) == bool(here)


# Reload, documents -----------------------------------------------------------------------------------------------


def test_mounted_again_the_routes_are_there_once_and_ask_the_new_service(browser: Browser) -> None:
    app = application(browser)
    before = len(app.routes)
    api.mount(app, lambda text: json.dumps({"id": 0, "result": {"new": True}}), Access())
    assert len(app.routes) == before
    assert Client(app).get(f"{V1}/hello").json == {"new": True}


def test_an_applications_own_description_may_lie_below_our_prefix(browser: Browser) -> None:
    """As it does where the panel is served without a WebUI."""
    app = fastapi.FastAPI(openapi_url=f"{V1}/openapi.json", docs_url=None)
    for _ in range(2):
        api.mount(app, browser.service.call, Access())
    told = Client(app).get(f"{V1}/openapi.json")
    assert told.status == 200
    assert len(told.json["paths"]) == len(api.ROUTES)


def test_openapi_describes_every_route_without_models(client: Client) -> None:
    document = client.app.openapi()
    paths = {path: verbs for path, verbs in document["paths"].items() if path.startswith(V1)}
    assert len(paths) == len(api.ROUTES)
    plan = paths[f"{V1}/plan"]["post"]
    schema = plan["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["name"]
    assert "401" in plan["responses"]
    (id,) = paths[f"{V1}/job/{{id}}"]["get"]["parameters"]
    assert (id["name"], id["in"]) == ("id", "path")


def test_the_document_shows_every_route_and_every_status() -> None:
    for route in api.ROUTES:
        assert f"{V1}{route.path.replace('{id}', '')}" in DOCUMENT
        assert f"`{'POST' if route.post else 'GET'} {route.path}`" in DOCUMENT
    for status in {*(kind.status for kind in ERRORS.values()), 401, 413, 415}:
        assert f"{status}" in DOCUMENT


def test_every_route_is_a_method_of_the_service() -> None:
    assert {route.name for route in api.ROUTES} <= ANSWERS.keys()


def test_the_document_has_the_status_of_every_kind_of_error() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| ([^|]*) \|", DOCUMENT, re.MULTILINE)
    shown = {(kind, statuses.strip()) for statuses, kinds in rows for kind in re.findall(r"`([a-z_]+)`", kinds)}
    assert {(kind, str(error.status)) for kind, error in ERRORS.items()} <= shown


def test_openapi_has_the_parameters_and_fields_of_the_protocol(client: Client) -> None:
    paths = client.app.openapi()["paths"]
    for route in api.ROUTES:
        described = paths[V1 + route.path]["post" if route.post else "get"]
        declared = {field.name for field in route.method.parameters} - set(route.left_out)
        if route.post:
            (content,) = described["requestBody"]["content"].values()
            assert content["schema"]["properties"].keys() == declared
        else:
            assert {one["name"] for one in described.get("parameters", []) if one["in"] == "query"} == declared
        (answer,) = described["responses"][str(route.status)]["content"].values()
        assert answer["schema"]["properties"].keys() == {field.name for field in route.result.fields}


# In Gradio's own application -------------------------------------------------------------------------------------


def gradios() -> list[str]:
    import importlib.util

    named = os.environ.get("RESIZE_LORA_PYTHONS")
    if named:
        return named.split(os.pathsep)
    return [sys.executable] if importlib.util.find_spec("gradio") else []


@pytest.mark.skipif(not gradios(), reason="no Gradio here; name interpreters that have it in RESIZE_LORA_PYTHONS")
@pytest.mark.parametrize("python", gradios())
def test_gradios_own_login_opens_the_api(python: str) -> None:
    done = subprocess.run([python, str(HERE / "gradio_login.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "in, out and refused" in done.stdout
