"""The OpenAPI 3.1 document, made from the route table and the models."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from bridge.api.examples import EXAMPLES
from bridge.api.field_descriptions import describe
from bridge.api.openapi_webhooks import webhooks
from bridge.api.problem import CONTENT_TYPE
from bridge.api.response_models import EventAnswer, ProblemAnswer
from bridge.api.routes import JSON, ROUTES, Route
from bridge.domain.timestamps import format_duration

_REF = "#/components/schemas/{model}"
_REFUSALS = {
    400: "Not JSON that everybody reads alike.",
    401: "The token is missing or wrong.",
    403: "The token's scope does not cover this.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "Not in a state that allows this, or the same `Idempotency-Key` is in flight.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    421: "This server does not answer for that host name.",
    429: "Too many sign-ins from this address are under way.",
    422: "Something given is wrong; `errors` names every field at fault.",
    502: "The provider gave no answer that could be used.",
    503: "The database cannot be used at the moment; nothing was changed.",
}
_TAGS = {
    "runs": "Register runs, look at them and wait for them.",
    "events": "What happened, in the order of recording.",
    "endpoints": "Subscribers, their secrets and replays to them.",
    "deliveries": "What was sent to each endpoint, with every attempt.",
    "replays": "Events that are sent again on request.",
    "connections": "Accounts at providers, and what was learned of their workflows.",
    "summary": "Everything at a glance.",
    "doctor": "What is or will be wrong.",
    "alerts": "The channels that send alerts to people.",
    "configuration": "The settings in effect.",
    "nodes": "The daemons that share the database.",
    "session": "The dashboard's sign-in.",
    "sessions": "Who is signed in to the dashboard.",
    "daemon": "Health, metrics, this document and the dashboard; most of it needs no token.",
    "webhooks": "What receivers get.",
}
_PATH_DESCRIPTIONS = {
    "digest": "Of all files of the dashboard; it stands in their addresses on the page.",
    "id": "The thing's id; that of a run may also be `CONNECTION:PROVIDER_RUN_ID`.",
    "name": "The connection's name, or that of a file.",
}
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request gets the first answer again, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"},
}
_TRACE_HEADERS = [
    {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}
    for name, description in (
        (
            "traceparent",
            "The W3C trace context of the registration; endpoints that ask for it get it. Ignored if it cannot be read.",
        ),
        ("tracestate", "Belongs to `traceparent`."),
    )
]
_SESSION = (
    "The cookie that `POST /v1/session` sets; its name ends with the port, behind TLS it is `__Host-runbridge`. "
    "Unsafe methods then need `Sec-Fetch-Site: same-origin`."
)
_LAST_EVENT_HEADER = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Resume behind this event.",
    "schema": {"type": "string"},
}


@cache
def build_document(version: str) -> dict[str, Any]:
    """The OpenAPI document of this version, built once because that takes some 50 ms; not to be changed."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "runbridge",
            "version": version,
            "description": "Watches workflow runs at their providers and sends signed webhooks when they are over.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The daemon that serves this document."}],
        "security": [{"token": []}, {"session": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "webhooks": webhooks(),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of the configuration."},
                "session": {"type": "apiKey", "in": "cookie", "name": "runbridge-8484", "description": _SESSION},
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> dict[str, Any]:
    asked = {route.request_model for route in ROUTES if route.has_body}
    shown: set[type[BaseModel]] = {ProblemAnswer, EventAnswer}
    shown |= {model for route in ROUTES for model in route.response_models.values() if model}
    listed: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in asked]
    listed += [(model, "serialization") for model in shown]
    _, schema = models_json_schema(sorted(listed, key=lambda pair: pair[0].__name__), ref_template=_REF)
    definitions: dict[str, Any] = schema["$defs"]
    used = {model.__name__ for model, _ in listed} | set(
        re.findall(_REF.format(model=r"(\w+)"), json.dumps(definitions))
    )
    for name in set(definitions) - used:  # the Python type of a field that has a schema of its own
        del definitions[name]
    for name, definition in definitions.items():
        for field, part in definition.get("properties", {}).items():
            _complete(part, name, field)
        if name in EXAMPLES:
            definition["examples"] = [EXAMPLES[name]]
    return definitions


def _complete(part: dict[str, Any], model: str, field: str) -> None:
    """Add the field's description, and write a default as a client would."""
    part.pop("title", None)
    if "description" not in part and (text := describe(model, field)):
        part["description"] = text
    if part.get("type") == "string" and isinstance(part.get("default"), float):
        part["default"] = format_duration(part["default"])


def _operation(route: Route) -> dict[str, Any]:
    first, _, rest = (route.handle.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": first.rstrip("."),
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "daemon"],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if rest.strip():
        operation["description"] = rest.strip()
    if route.is_open:
        operation["security"] = []
    if route.has_body:
        needed = any(info.is_required() for info in route.request_model.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": {JSON: {"schema": _ref(route.request_model)}}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_DESCRIPTIONS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.keeps_response:
        parameters.append(_KEY_HEADER)
    if route.keeps_trace:
        parameters += _TRACE_HEADERS
    if route.content_type == "text/event-stream":
        parameters.append(_LAST_EVENT_HEADER)
    return parameters if route.has_body else parameters + _query_parameters(route.request_model)


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=_REF)
    parameters = []
    for name, part in schema.get("properties", {}).items():
        is_map = part.get("type") == "object"
        parameter = {
            "name": f"{name}.KEY" if is_map else name,
            "in": "query",
            "required": name in schema.get("required", []),
            "schema": _inline(part["additionalProperties"] if is_map else part, schema),
        }
        if text := part.get("description") or describe(model.__name__, name):
            parameter["description"] = text
        parameters.append(parameter)
    return parameters


def _inline(part: Any, schema: dict[str, Any]) -> Any:
    """A query parameter's schema by itself: references resolved, null left out (a parameter has no null)."""
    if isinstance(part, list):
        return [_inline(item, schema) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inline(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    choices = [choice for choice in part.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        part = {**{key: value for key, value in part.items() if key not in ("anyOf", "default")}, **choices[0]}
    return {key: _inline(value, schema) for key, value in part.items() if key != "title"}


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in route.response_models.items():
        response: dict[str, Any] = {"description": _describe(status, model)}
        if model is not None:
            response["content"] = {JSON: {"schema": _ref(model)}}
        elif status != 204:
            response["content"] = {route.content_type: {}}
        responses[str(status)] = response
    for status in sorted(_refusals_of(route) - set(route.response_models)):
        responses[str(status)] = {
            "description": _REFUSALS[status],
            "content": {CONTENT_TYPE: {"schema": _ref(ProblemAnswer)}},
        }
    responses["default"] = {
        "description": "Any other error.",
        "content": {CONTENT_TYPE: {"schema": _ref(ProblemAnswer)}},
    }
    return responses


def _refusals_of(route: Route) -> set[int]:
    always = {421, 422, *route.refusals}
    if not route.is_open:
        always |= {401, 503} if route.method == "GET" else {401, 403, 503}
    return always | {400, 408, 413, 415} if route.has_body else always


def _describe(status: int, model: type[BaseModel] | None) -> str:
    if model is None:
        return "Done." if status == 204 else "As described."
    return (model.__doc__ or "").partition("\n")[0]


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
