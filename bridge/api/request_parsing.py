"""From the wire to checked values: host, query, and the body's type, size, time and fields.

A mistake is named by its field and with the remedy, all at once; a given value is never shown.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bridge.api.context import IdempotencyKey
from bridge.api.problem import Refusal
from bridge.api.request_models import Checks
from bridge.domain.errors import InvalidInput, NotFound, Problem
from bridge.domain.run import Json
from bridge.domain.strict_json import parse_request
from bridge.domain.suggestions import dotted
from bridge.domain.validation import describe

BODY_TIMEOUT_S = 15.0
KEY_CHARACTERS_MAX = 255
_PATH_PART = re.compile(
    r"[A-Za-z0-9_.~-]{1,200}|[A-Za-z0-9_.-]{1,64}:[^\0-\x1f\x7f-\x9f\ud800-\udfff]{1,520}", re.ASCII
)
_METADATA = "metadata."
_JSON = "application/json"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?", re.ASCII)


def check_host(request: web.Request, allowed: frozenset[str]) -> None:
    """Raise a Refusal for a host name that is not ours: a foreign web page may have made it point here."""
    given = request.headers.getall("Host", [])
    if len(given) == 1 and _host_name(given[0]) in allowed:
        return
    is_unix = request.transport is not None and isinstance(request.transport.get_extra_info("sockname"), str | bytes)
    if not is_unix:  # to a Unix socket no browser and no DNS name leads
        raise Refusal(421, "this server does not answer for that host name; add it to [server] allowed_hosts")


@functools.lru_cache(maxsize=256)
def _host_name(header: str) -> str | None:
    """The name or address in a Host header, lower case; None if it is not one."""
    found = _HOST.fullmatch(header)
    return found and found[1].lower()


def check_path(request: web.Request) -> None:
    """Raise NotFound for a path part that can be no id."""
    for part in request.match_info.values():
        if not _PATH_PART.fullmatch(part):
            raise NotFound("there is no such thing: this is no id")


async def read_body(request: web.Request, bytes_max: int) -> Json:
    """The JSON of the body, `{}` if there is none. Raises a Refusal if it must not be read at all."""
    if request.content_length is not None and request.content_length > bytes_max:
        raise _too_large(bytes_max)
    headers = request.headers
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "the body must not be compressed; send it without Content-Encoding")
    arrived = request.content.is_eof()  # together with the head, as small bodies do
    data = request.content.read_nowait() if arrived else await _await_body(request, bytes_max)
    if len(data) > bytes_max:
        raise _too_large(bytes_max)
    if not data:
        return {}
    if headers.get("Content-Type") != _JSON and not _is_json(request):
        raise Refusal(415, "the body must be JSON in UTF-8, sent with `Content-Type: application/json`")
    return parse_request(data)


def _is_json(request: web.Request) -> bool:
    return request.content_type == _JSON and (request.charset or "utf-8").lower() in ("utf-8", "utf8")


async def _await_body(request: web.Request, bytes_max: int) -> bytes:
    """The body, at most one chunk longer than `bytes_max`. Raises a Refusal after BODY_TIMEOUT_S."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while len(data) <= bytes_max and (chunk := await request.content.readany()):
                data += chunk
    except (web.RequestPayloadError, ConnectionError):
        raise Refusal(400, "the body breaks off, or is not encoded as its headers say", Connection="close") from None
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s", Connection="close") from None
    return bytes(data)


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(413, f"the body may have at most {bytes_max} bytes")


@functools.cache
def _list_fields(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for name, info in model.model_fields.items() if "list" in str(info.annotation))


def read_query(request: web.Request, model: type[BaseModel], checks: Checks) -> BaseModel:
    """The checked query parameters; lists may be given comma-separated or several times."""
    query = request.rel_url.query
    lists = _list_fields(model)
    twice = [
        Problem(name, "is given twice")
        for name in sorted(set(query))
        if len(query.getall(name)) > 1 and name not in lists
    ]
    if twice:
        raise InvalidInput(twice)
    given: dict[str, object] = {name: value for name, value in query.items() if not name.startswith(_METADATA)}
    if pairs := {name.removeprefix(_METADATA): value for name, value in query.items() if name.startswith(_METADATA)}:
        given["metadata"] = pairs
    for name in lists & set(query):
        given[name] = [part for value in query.getall(name) for part in value.split(",")]
    return read_given(model, given, context=checks, what="query parameter")


def read_key(request: web.Request, given: Json) -> IdempotencyKey | None:
    """The request's `Idempotency-Key`, if any, with a fingerprint of method, path and JSON."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    key = keys[0]
    if len(keys) > 1 or not 1 <= len(key) <= KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        message = f"one key of 1 to {KEY_CHARACTERS_MAX} printable ASCII characters"
        raise InvalidInput([Problem("Idempotency-Key", message)])
    same = json.dumps([request.method, request.path, given], sort_keys=True)
    return IdempotencyKey(key, hashlib.sha256(same.encode()).hexdigest())


M = TypeVar("M", bound=BaseModel)

_WORDS = {
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
}


def read_given(model: type[M], given: object, *, context: object, what: str = "field") -> M:
    """`given` as `model`, validated with `context`. Raises InvalidInput, which names every field at fault."""
    try:
        return model.model_validate(given, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise InvalidInput([_problem(detail, model, what) for detail in details]) from None


def _problem(error: ErrorDetails, model: type[BaseModel], what: str) -> Problem:
    is_body = what == "field"  # in a query a list is written with commas, and its items have no place
    location = [part for part in error["loc"] if part != "[key]" and (is_body or isinstance(part, str))]
    return Problem(dotted(location) or "(body)", describe(error, what, _known_fields(model, error["loc"][:-1]), _WORDS))


def _known_fields(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return [name for field, info in model.model_fields.items() for name in _names(field, info.validation_alias)]


def _names(field: str, alias: Any) -> list[str]:
    return [str(alias.choices[0])] if hasattr(alias, "choices") else [alias or field]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
