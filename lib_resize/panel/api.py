"""The panel's service as an HTTP API: ``/resize-lora/v1/…``; see docs/api.md. Off unless it was asked for.

A thin layer: a route is a method of ``docs/panel-protocol.md``, its body the method's params. Hosts put no login before
the routes of extensions, so that this module asks for it itself. No pydantic models: hosts ship different versions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ..hosts.access import Access
from .gate import Gate, Refusal

PREFIX = "/resize-lora/v1"
_NAME = "resize_lora_api_"  # of each route, by which they are known again
_MOST_BYTES = 4 << 20
_PATIENCE = 10.0  # seconds that a list may take

Call = Callable[[str], str]
Schema = dict[str, Any]

STATUSES: dict[str, int] = {
    "request": 400,
    "confirm": 400,
    "remote": 403,
    "file": 404,
    "gone": 404,
    "not_analysed": 409,
    "reference": 409,
    "output": 409,
    "stale": 409,
    "cancelled": 409,
    "prompt": 422,
    "recipe": 422,
    "refused": 422,
    "internal": 500,
    "unavailable": 501,
}
"""Kind of error of the protocol -> HTTP status."""

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "minItems": 1}
_WHOLE: Schema = {"type": "integer"}
_ANY: Schema = {"type": "object"}
_TARGET: Schema = {
    "type": "object",
    "description": "exactly one of these; and not together with recipe",
    "properties": {
        "preset": {"type": "string", "enum": ["high", "medium", "low"]},
        "size": {"type": "number", "description": "MiB"},
        "retention": {"type": "number", "minimum": 0, "maximum": 1},
        "rank": {"type": "integer", "minimum": 1},
    },
    "minProperties": 1,
    "maxProperties": 1,
}
_OPTIONS: Schema = {
    "type": "object",
    "properties": {
        "dtype": {"type": "string", "enum": ["16", "bf16", "32", "8", "same"]},
        "naming": {"type": "string", "enum": ["same", "kohya"]},
        "suffix": _TEXT,
        "folder": {"type": "string", "nullable": True},
        "sidecars": {"type": "boolean"},
        "scores": _TEXT,
        "rescale": {"type": "number"},
        "reference": _TEXT,
    },
}
_CHOICE: dict[str, Schema] = {"recipe": _TEXT, "target": _TARGET, "options": _OPTIONS}


@dataclass(frozen=True)
class Route:
    """One way in: a path below the prefix, and the service's method behind it."""

    path: str
    method: str
    summary: str
    fields: dict[str, Schema] = field(default_factory=dict)
    """Of the body of a POST, of the query of a GET."""
    required: tuple[str, ...] = ()
    changes: bool = False
    """Whether it is a POST: all that starts work or moves files, and `plan` for the size of its question."""
    status: int = 200


ROUTES = (
    Route("/hello", "hello", "What this host is, its checkpoints and presets"),
    Route("/list", "library", "The LoRAs; those that changed since a revision", {"since": _WHOLE}),
    Route("/job/{id}", "status", "One job, and its result once it is done"),
    Route("/jobs", "status", "The jobs that changed since a revision, and what is left to do", {"since": _WHOLE}),
    Route("/results", "results", "What was made, the latest 500", {"before": _TEXT, "limit": _WHOLE}),
    Route("/trash", "trash", "What was undone and can be restored"),
    Route(
        "/analyse",
        "analyse",
        "Decomposes LoRAs in the background; answers with a job",
        {"names": _TEXTS, "reference": _TEXT, "recipe": _TEXT},
        ("names",),
        changes=True,
        status=202,
    ),
    Route(
        "/plan",
        "plan",
        "What a resize would write; needs an analysis",
        {"name": _TEXT, **_CHOICE},
        ("name",),
        changes=True,
    ),
    Route(
        "/resize",
        "resize",
        "Makes smaller files in the background; answers with a job for each file and recipe",
        {"names": _TEXTS, **_CHOICE, "again": {"type": "boolean"}},
        ("names",),
        changes=True,
        status=202,
    ),
    Route("/cancel", "cancel", "Stops jobs", {"job": _TEXT, "jobs": _TEXTS}, changes=True),
    Route("/undo", "undo", "Moves a result to the trash", {"result": _TEXT}, ("result",), changes=True),
    Route("/restore", "restore", "Moves it back", {"result": _TEXT, "item": _TEXT}, changes=True),
)


def mount(app: Any, call: Call, access: Access) -> None:
    """Puts the routes on a host's FastAPI application, in place of ours that it may have from before."""
    app.router.routes[:] = [one for one in app.router.routes if not str(getattr(one, "name", "")).startswith(_NAME)]
    gate = Gate(app, access)
    for route in ROUTES:
        app.add_api_route(
            PREFIX + route.path,
            _endpoint(route, call, gate),
            methods=["POST" if route.changes else "GET"],
            name=_NAME + route.path.split("/")[1],
            summary=route.summary,
            tags=["Resize LoRA"],
            status_code=route.status,
            response_model=None,
            responses=_told_responses(route),
            openapi_extra=_told_request(route),
        )
    app.openapi_schema = None  # what was made of the routes before


def _endpoint(route: Route, call: Call, gate: Gate) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            gate.check(request)
            params = await _params(route, request)
        except Refusal as refusal:
            return _response(refusal.status, {"error": refusal.as_json()}, refusal.headers)
        return _answered(route, await run_in_threadpool(_ASKS.get(route.path, _ask), call, route.method, params))

    return answer


async def _params(route: Route, request: Request) -> dict[str, Any]:
    if route.changes:
        return _object(await _body(request))
    return {**_query(route, request), **request.path_params}


def _query(route: Route, request: Request) -> dict[str, Any]:
    """Digits are a number where one is expected; the service says what is wrong with anything else."""
    return {name: _value(route.fields.get(name), text) for name, text in request.query_params.items()}


def _value(schema: Schema | None, text: str) -> int | str:
    return int(text) if schema is _WHOLE and text.isdecimal() and len(text) < 20 else text


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
    """The service's answer: an object with `result` or `error`."""
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
    """Waits for the headers to be read, where a page would ask again."""
    end = time.monotonic() + _PATIENCE
    while True:
        answer = _ask(call, method, params)
        if answer.get("result", {}).get("complete", True) or time.monotonic() > end:
            return answer
        time.sleep(0.05)


_ASKS = {"/list": _ask_list, "/job/{id}": _ask_job}
"""Routes that are a little more than one question."""


def _answered(route: Route, answer: dict[str, Any]) -> Response:
    error, result = answer.get("error"), answer.get("result") or {}
    more = {}
    if (
        route.method == "resize" and not error and not result["jobs"] and not result["same"]
    ):  # every single name was refused
        error, more = result["refused"][0], {"refused": result["refused"]}
    if error:
        return _response(STATUSES.get(error["kind"], 500), {"error": error, **more})
    return _response(route.status, result)


def _response(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    """In ASCII, because a name may hold what UTF-8 cannot."""
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


# OpenAPI -------------------------------------------------------------------------------------------------------

_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"kind": _TEXT, "message": _TEXT, "column": _WHOLE},
            "required": ["kind", "message"],
        }
    },
}


def _told_responses(route: Route) -> dict[int | str, dict[str, Any]]:
    refused = {
        400: "a wrong parameter",
        401: "who you are was not said, or is not known",
        403: "another site's page, or a server that others can reach and that has no login",
        404: "no such file, job or result",
        409: "not now: not analysed yet, no reference, a file is in the way",
        415: "the body is not JSON",
        422: "a recipe that cannot be read, or numbers that cannot be",
    }
    if not route.changes:
        refused = {status: text for status, text in refused.items() if status not in (409, 415, 422)}
    told: dict[int | str, dict[str, Any]] = {route.status: {"description": route.summary, **_json(_ANY)}}
    told.update({status: {"description": text, **_json(_ERROR)} for status, text in refused.items()})
    return told


def _told_request(route: Route) -> dict[str, Any]:
    if route.changes:
        schema = {"type": "object", "properties": route.fields, "required": list(route.required)}
        if not route.required:
            del schema["required"]
        return {"requestBody": {"required": True, **_json(schema)}}
    path = [{"name": "id", "in": "path", "required": True, "schema": _TEXT}] if "{id}" in route.path else []
    query = [{"name": name, "in": "query", "required": False, "schema": one} for name, one in route.fields.items()]
    return {"parameters": [*path, *query]}


def _json(schema: Schema) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
