"""The keys of a definition: `schema.json` is what editors complete from, and what every file is checked against.

It is JSON Schema, draft 7, with four words of our own: `x-form` says for a person what is allowed, `x-check` names a
check here, `x-one-of` lists keys of which exactly one is needed, `x-moved` says where a key belongs instead. Tables that
are only required without a base have `x-required`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final

from bridge.definitions.expressions import check_expression
from bridge.domain.suggestions import closest

At = tuple[str | int, ...]
Fault = tuple[At, str]  # where, and a sentence: what was found, what is allowed
SCHEMA_TEXT: Final = (Path(__file__).parent / "schema.json").read_text(encoding="utf-8")
SCHEMA: Final[dict[str, Any]] = json.loads(SCHEMA_TEXT)
STATUSES: Final = ("queued", "running", "waiting", "succeeded", "partial", "failed", "cancelled")
NAME: Final[str] = SCHEMA["properties"]["name"]["pattern"]
_SHOWN_CHARS_MAX: Final = 60
_INTEGER_MAX: Final = 2**53
_TYPES: Final[dict[str, tuple[type, str]]] = {
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "boolean": (bool, "true or false"),
    "array": (list, "a list"),
    "object": (dict, "a table"),
}


def faults_of(value: Any, schema: dict[str, Any] = SCHEMA, at: At = ()) -> Iterator[Fault]:
    """Everything that is wrong with a value by itself."""
    schema = _resolved(schema)
    fitting = next((one for one in map(_resolved, schema.get("anyOf", (schema,))) if _has_type(one, value)), None)
    if fitting is None:
        yield at, f"found {shown(value)}; allowed: {_allowed(schema)}"
    elif fitting.get("x-check") == "json":
        yield from _json_faults(value, at)
    elif isinstance(value, dict):
        yield from _table_faults(value, fitting, at)
    elif isinstance(value, list):
        if not value and "minItems" in fitting:
            yield at, "the list is empty; leave the key out instead"
        for number, item in enumerate(value):
            yield from faults_of(item, fitting["items"], (*at, number))
    elif "enum" in fitting and value not in fitting["enum"]:
        nearest = meant(value, fitting["enum"]) if isinstance(value, str) else ""
        yield at, f"found {shown(value)}; allowed: {_allowed(fitting)}{nearest}"
    elif isinstance(value, str):
        yield from _text_faults(value, fitting, at)


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or what it refers to."""
    if "$ref" in schema:
        resolved: dict[str, Any] = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        return resolved
    return schema


def _has_type(schema: dict[str, Any], value: object) -> bool:
    """Whether a value has the type of a schema, a number its range, so that it can be looked into."""
    if schema.get("format") == "date":
        return type(value) is date
    if "type" not in schema:
        return True
    if isinstance(value, bool) and schema["type"] != "boolean":
        return False
    if isinstance(value, int) and "minimum" in schema and not schema["minimum"] <= value <= schema["maximum"]:
        return False
    return isinstance(value, _TYPES[schema["type"]][0])


def _allowed(schema: dict[str, Any]) -> str:
    """What may stand there, for a person."""
    schema = _resolved(schema)
    match schema:
        case {"x-form": str() as form}:
            return form
        case {"anyOf": list() as several}:
            return " or ".join(map(_allowed, several))
        case {"enum": list() as words}:
            return ", ".join(words)
        case {"type": "integer", "minimum": low, "maximum": high} if high < _INTEGER_MAX:
            return f"a whole number from {low} to {high}"
        case {"type": "array", "items": items}:
            return "a list: [[…]]" if "properties" in _resolved(items) else f"a list of {_allowed(items)}"
        case {"additionalProperties": dict() as each}:
            return f"a table whose values are {_allowed(each)}"
    return _TYPES[schema["type"]][1]


def _table_faults(value: dict[str, Any], schema: dict[str, Any], at: At) -> Iterator[Fault]:
    """Unknown keys, missing ones, too many of a group, and the faults of every value."""
    keys, others, moved = schema.get("properties", {}), schema["additionalProperties"], schema.get("x-moved", {})
    if not value and "minProperties" in schema:
        yield at, "the table is empty; leave it out instead"
    for name, inner in value.items():
        if name in keys or others:
            yield from faults_of(inner, keys.get(name, others), (*at, name))
        elif name in moved:
            yield (*at, name), f"unknown key `{name}`; `{name}` belongs into {moved[name]}"
        else:
            yield (*at, name), f"unknown key `{name}`; allowed: {', '.join(keys)}{meant(name, keys)}"
    for name in schema.get("x-required", schema.get("required", ())):
        if name not in value:
            yield (*at, name), f"the key `{name}` is missing"
    for group in schema.get("x-one-of", ()):
        given = [name for name in group if name in value]
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none of them"
            yield at, f"exactly one of {', '.join(group)} is needed; found {found}"


def _text_faults(value: str, schema: dict[str, Any], at: At) -> Iterator[Fault]:
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        yield at, f"found {shown(value)}; allowed: {_allowed(schema)}"
    elif check := schema.get("x-check"):
        try:
            _CHECKS[check](value)
        except ValueError as error:
            yield at, f"found {shown(value)}; {error}"


def _json_faults(value: Any, at: At) -> Iterator[Fault]:
    """What TOML has and JSON has not, anywhere inside."""
    match value:
        case dict():
            for name, inner in value.items():
                yield from _json_faults(inner, (*at, name))
        case list():
            for number, inner in enumerate(value):
                yield from _json_faults(inner, (*at, number))
        case str() | int() | float():
            pass
        case _:
            yield at, f"found {shown(value)}, which JSON does not have; write it as text"


def shown(value: object) -> str:
    """A value as a message quotes it, on one line and not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:
        text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 1]}…"


def meant(word: str, known: Iterable[str]) -> str:
    """The nearest spelling, as the end of a sentence; empty if none is near."""
    nearest = closest(word, known)
    return f"; did you mean `{nearest}`?" if nearest else ""


def _check_address(text: str) -> None:
    if not text.startswith(("/", "https://", "http://")) or any(char.isspace() for char in text):
        raise ValueError("allowed: a path that begins with `/`, or an address that begins with https://")
    if "#" in text:
        raise ValueError("an address for requests has no fragment (`#`)")


def _check_base_url(text: str) -> None:
    if not text.startswith(("https://", "http://")) or "?" in text or "@" in text:
        raise ValueError("allowed: an address that begins with https://, without a query or a user")


def _check_exchange(text: str) -> None:
    method, _, address = text.partition(" ")
    if method not in {"POST", "GET", "PUT"}:
        raise ValueError('allowed: a method and an address, as in "POST /auth/token"')
    _check_address(address)


_CHECKS: Final[dict[str, Callable[[str], None]]] = {
    "expression": check_expression,
    "address": _check_address,
    "base_url": _check_base_url,
    "exchange": _check_exchange,
}
