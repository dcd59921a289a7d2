"""The HTTP API: ``/resize-lora/v1/…``; see docs/api.md. Off unless the host was started with it.

A route is a method of the protocol, its body the method's parameters; `protocol.methods` declares both. Hosts put no
login before the routes of extensions, so `gate` checks each request. No pydantic models: hosts ship different versions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ..hosts.access import Access
from .gate import Gate, Refusal
from .protocol.errors import ERRORS
from .protocol.method import Method
from .protocol.methods import METHODS
from .protocol.objects import ERROR, JOB
from .protocol.types import REQUIRED, Field, Integer, Object, Schema

PREFIX = "/resize-lora/v1"
_NAME = "resize_lora_api_"  # prefix of the names of all routes, by which a reload finds them
_MOST_BYTES = 4 << 20
_PATIENCE = 10.0  # seconds that a list may take

Call = Callable[[str], str]


@dataclass(frozen=True)
class Route:
    """A path below the prefix, and the method of the protocol that it calls."""

    path: str
    name: str
    """Of the method."""
    post: bool = False
    """All methods that start work or move files, and `plan` because of the size of its question."""
    status: int = 200
    left_out: tuple[str, ...] = ()
    """Parameters of the method that are not described."""

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def parameters(self) -> list[Field]:
        """The fields of the body of a POST, or of the query of a GET."""
        return [field for field in self.method.parameters if field.name not in self.left_out]

    @property
    def result(self) -> Object:
        return JOB if self.path == _JOB else self.method.result


_JOB = "/job/{id}"

ROUTES = (
    Route("/hello", "hello"),
    Route("/list", "library", left_out=("refresh",)),
    Route(_JOB, "status", left_out=("since",)),
    Route("/jobs", "status"),
    Route("/results", "results"),
    Route("/trash", "trash"),
    Route("/analyse", "analyse", post=True, status=202),
    Route("/plan", "plan", post=True),
    Route("/resize", "resize", post=True, status=202),
    Route("/cancel", "cancel", post=True),
    Route("/undo", "undo", post=True),
    Route("/restore", "restore", post=True),
    Route("/archive", "archive"),
    Route("/runs", "runs"),
    Route("/run", "run"),
    Route("/estimate", "estimate", post=True, status=202),
    Route("/shrink_plan", "shrink_plan", post=True),
    Route("/shrink", "shrink", post=True, status=202),
    Route("/run_control", "run_control", post=True),
    Route("/restore_originals", "restore_originals", post=True, status=202),
    Route("/purge", "purge", post=True),
    Route("/compare", "compare", post=True, status=202),
    Route("/picture", "picture"),
    Route("/find", "find", post=True, status=202),
    Route("/find_more", "find_more", post=True, status=202),
    Route("/find_stop", "find_stop", post=True),
    Route("/find_save", "find_save", post=True, status=202),
)


def mount(app: Any, call: Call, access: Access) -> None:
    """Add the routes to a host's FastAPI application, in place of those of an earlier load."""
    app.router.routes[:] = [one for one in app.router.routes if not str(getattr(one, "name", "")).startswith(_NAME)]
    gate = Gate(app, access)
    for route in ROUTES:
        app.add_api_route(
            PREFIX + route.path,
            _endpoint(route, call, gate),
            methods=["POST" if route.post else "GET"],
            name=_NAME + route.path.split("/")[1],
            summary=_summary(route),
            tags=["Resize LoRA"],
            status_code=route.status,
            response_model=None,
            responses=_responses(route),
            openapi_extra=_request(route),
        )
    app.openapi_schema = None  # FastAPI keeps the description of the earlier routes


def _endpoint(route: Route, call: Call, gate: Gate) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            gate.check(request)
            params = await _params(route, request)
        except Refusal as refusal:
            return _response(refusal.status, {"error": refusal.to_json()}, refusal.headers)
        return _answered(route, await run_in_threadpool(_ASKS.get(route.path, _ask), call, route.name, params))

    return answer


async def _params(route: Route, request: Request) -> dict[str, Any]:
    if route.post:
        return _object(await _body(request))
    return {**_query(route, request), **request.path_params}


def _query(route: Route, request: Request) -> dict[str, Any]:
    """Return the query, with numbers where integers are expected; the service refuses anything else."""
    integers = {field.name for field in route.parameters if isinstance(field.type, Integer)}
    return {name: _value(text, name in integers) for name, text in request.query_params.items()}


def _value(text: str, is_integer: bool) -> int | str:
    return int(text) if is_integer and text.isdecimal() and len(text) < 20 else text


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "request", "Send JSON, with the header Content-Type: application/json.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise Refusal(413, "request", f"The body is larger than {_MOST_BYTES >> 20} MiB.")
    return bytes(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "request", f"The body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refusal(400, "request", "The body must be a JSON object.")
    return found


def _ask(call: Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of the service: an object with `result` or `error`."""
    answer: dict[str, Any] = json.loads(call(json.dumps({"id": 0, "method": method, "params": params})))
    return answer


def _ask_job(call: Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
    id = params.pop("id")
    answer = _ask(call, method, params)
    jobs = [job for job in answer.get("result", {}).get("queue", ()) if job["id"] == id]
    if "error" in answer or jobs:
        return answer if "error" in answer else {"result": jobs[0]}
    return {"error": {"kind": "gone", "message": f"There is no job {id!r}."}}


def _ask_list(call: Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Ask until all headers are read, as a page does."""
    end = time.monotonic() + _PATIENCE
    while True:
        answer = _ask(call, method, params)
        if answer.get("result", {}).get("complete", True) or time.monotonic() > end:
            return answer
        time.sleep(0.05)


_ASKS = {"/list": _ask_list, _JOB: _ask_job}
"""Routes that are more than one question."""


def _answered(route: Route, answer: dict[str, Any]) -> Response:
    error, result = answer.get("error"), answer.get("result") or {}
    more = {}
    if route.name == "resize" and not error and not result["jobs"] and not result["same"]:  # all names are refused
        error, more = result["refused"][0], {"refused": result["refused"]}
    if error:
        return _response(ERRORS[error["kind"]].status, {"error": error, **more})
    return _response(route.status, result)


def _response(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    """Return the content in ASCII, because a name may have characters that UTF-8 lacks."""
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


# OpenAPI -------------------------------------------------------------------------------------------------------

_ERROR: Schema = {"type": "object", "properties": {"error": ERROR.schema}}
_REFUSALS = {
    400: "wrong parameter",
    401: "missing or invalid credentials",
    403: "cross-origin request, or unauthenticated request to a publicly reachable server",
    404: "no such file, job or result",
}
_POST_REFUSALS = {
    409: "not possible now: not analysed, no reference, or a file is in the way",
    415: "the body is not JSON",
    422: "invalid recipe, or impossible values",
}


def _summary(route: Route) -> str:
    return "Return one job, with its result once it is done" if route.path == _JOB else route.method.summary


def _responses(route: Route) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {
        route.status: {"description": _summary(route), **_json(route.result.schema)}
    }
    refusals = {**_REFUSALS, **(_POST_REFUSALS if route.post else {})}
    found.update((status, {"description": text, **_json(_ERROR)}) for status, text in refusals.items())
    return found


def _request(route: Route) -> dict[str, Any]:
    if route.post:
        return {"requestBody": {"required": True, **_json(_body_schema(route))}}
    path = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}] if route.path == _JOB else []
    query = [
        {"name": field.name, "in": "query", "required": False, "schema": field.schema} for field in route.parameters
    ]
    return {"parameters": [*path, *query]}


def _body_schema(route: Route) -> Schema:
    schema: Schema = {"type": "object", "properties": {field.name: field.schema for field in route.parameters}}
    required = [field.name for field in route.parameters if field.default is REQUIRED]
    if required:
        schema["required"] = required
    if route.method.either and route.method.either_is_required:
        schema["oneOf"] = [{"required": [name]} for name in route.method.either]
    return schema


def _json(schema: Schema) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
