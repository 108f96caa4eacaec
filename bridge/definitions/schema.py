"""The keys of a definition: `schema.json` is what editors complete from, and what every file is checked against.

It is JSON Schema, draft 7, with words of our own: `x-form` says for a person what is allowed, `x-check` names a check
here, `x-text` marks texts with names in braces. In tables `x-one-of` lists keys of which exactly one is needed, `x-with`
says which other key (one of several) a key needs, and `x-required` which tables are only required without a base.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bridge.definitions.expressions import check_expression
from bridge.definitions.remedies import remedy_for_key
from bridge.domain.suggestions import closest, dotted

At = tuple[str | int, ...]
Fault = tuple[At, str]  # where, and a sentence: what was found, what is allowed
Node = tuple[At, Any, dict[str, Any], bool]  # where, a value, its schema, and whether it has the type of it
SCHEMA_TEXT: Final = (Path(__file__).parent / "schema.json").read_text(encoding="utf-8")
SCHEMA: Final[dict[str, Any]] = json.loads(SCHEMA_TEXT)
STATUSES: Final = ("queued", "running", "waiting", "succeeded", "partial", "failed", "cancelled")
NAME: Final[str] = SCHEMA["properties"]["name"]["pattern"]
_SHOWN_CHARS_MAX: Final = 60
_INTEGER_MAX: Final = 2**53
_PORT: Final = re.compile(r"https?://(?:\[[^]/]*\]|[^\[:/?#]*):([^/?#{}]+)(?:[/?#]|$)")
_TYPES: Final[dict[str, tuple[type, str]]] = {
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "boolean": (bool, "true or false"),
    "array": (list, "a list"),
    "object": (dict, "a table"),
}


def nodes_of(value: Any, schema: dict[str, Any] = SCHEMA, at: At = ()) -> Iterator[Node]:
    """A value and all values in it that have a schema, from the outside to the inside."""
    schema = _resolved(schema)
    fitting = next((one for one in map(_resolved, schema.get("anyOf", (schema,))) if _has_type(one, value)), None)
    if fitting is not None and "x-form" in schema:
        fitting = {**fitting, "x-form": schema["x-form"]}  # of all types, not of this one alone
    yield at, value, fitting or schema, fitting is not None
    if fitting is not None and isinstance(value, dict | list):
        keys = fitting.get("properties", {})
        others = fitting if fitting.get("x-check") == "json" else fitting.get("additionalProperties")
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if below := keys.get(name, others) if isinstance(value, dict) else fitting.get("items", fitting):
                yield from nodes_of(inner, below, (*at, name))


def faults_at(node: Node) -> Iterator[Fault]:
    """Everything that is wrong with a value by itself."""
    at, value, schema, has_type = node
    if not has_type or ("enum" in schema and value not in schema["enum"]):
        words = [word for word in schema.get("enum", ()) if isinstance(word, str)]
        nearest = meant(value, words) if isinstance(value, str) else ""
        yield at, f"found {shown(value)}; allowed: {_allowed(schema, at)}{nearest}"
    elif not value and ("minItems" in schema or "minProperties" in schema):
        yield at, f"the {'list' if isinstance(value, list) else 'table'} is empty; leave it out instead"
    elif check := schema.get("x-check"):
        try:
            _CHECKS[check](value)
        except ValueError as error:
            yield at, f"found {shown(value)}; {error}"
    elif isinstance(value, dict):
        yield from _table_faults(value, schema, at)
    elif "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        yield at, f"found {shown(value)}; allowed: {_allowed(schema, at)}"


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or what it refers to."""
    found: dict[str, Any] = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _has_type(schema: dict[str, Any], value: object) -> bool:
    """Whether a value has the type that a schema asks for, and a number its range; only then are its members checked."""
    if schema.get("format") == "date":
        return type(value) is date
    if "type" not in schema:
        return "anyOf" not in schema
    if isinstance(value, bool) and schema["type"] != "boolean":
        return False
    if isinstance(value, int) and "minimum" in schema and not schema["minimum"] <= value <= schema["maximum"]:
        return False
    return isinstance(value, _TYPES[schema["type"]][0])


def _allowed(schema: dict[str, Any], at: At) -> str:
    """The values that may stand there, in words."""
    schema = _resolved(schema)
    match schema:
        case {"x-form": str() as form}:
            return form
        case {"anyOf": list() as several}:
            return " or ".join(_allowed(one, at) for one in several)
        case {"enum": list() as words}:
            return ", ".join(words)
        case {"type": "integer", "minimum": low, "maximum": high} if high < _INTEGER_MAX:
            return f"a whole number from {low} to {high}"
        case {"type": "array", "items": items}:
            is_of_tables = "properties" in _resolved(items)
            return f"a list of tables: [[{dotted(at)}]]" if is_of_tables else f"a list of {_allowed(items, at)}"
        case {"additionalProperties": dict() as each}:
            return f"a table whose values are {_allowed(each, at)}"
    return _TYPES[schema["type"]][1]


def _table_faults(value: dict[str, Any], schema: dict[str, Any], at: At) -> Iterator[Fault]:
    """Unknown keys, missing ones, too many of a group, and keys without those that they need."""
    keys = schema.get("properties", {})
    for name in () if schema["additionalProperties"] else [one for one in value if one not in keys]:
        remedy = remedy_for_key(name, *_kinds(at, keys)) or meant(name, keys)
        yield (*at, name), f"unknown key `{name}`; allowed: {', '.join(keys)}{remedy}"
    for name in schema.get("x-required", schema.get("required", ())):
        if name not in value:
            yield (*at, name), f"the key `{name}` is missing"
    for group in schema.get("x-one-of", ()):
        given = [name for name in group if name in value]
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none of them"
            yield at, f"exactly one of {', '.join(group)} is needed; found {found}"
    for name, others in schema.get("x-with", {}).items():
        if name in value and not value.keys() & set(others):
            yield (*at, name), f"`{name}` needs {' or '.join(f'`{one}`' for one in others)} beside it"


def _kinds(at: At, keys: Iterable[str]) -> Iterator[str]:
    """The tables of `remedies.toml` for a table of a definition, the most special first."""
    names = [part for part in at if isinstance(part, str)] or ["top"]
    yield from (".".join(names), "vars" if names[0] == "vars" else names[-1])
    yield from (kind for key, kind in (("get", "request"), ("post", "request"), ("time", "instant")) if key in keys)


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
        form = "a name in braces stands without blanks; " if re.search(r"\{\s|\s\}", text) else ""
        raise ValueError(f"{form}allowed: a path that begins with `/`, or an address that begins with https://")
    if "#" in text:
        raise ValueError("an address for requests has no fragment (`#`)")
    _check_port(text)


def _check_base_url(text: str) -> None:
    if not text.startswith(("https://", "http://")) or not urlsplit(text).netloc or any(mark in text for mark in "?#@"):
        raise ValueError("allowed: an address that begins with https://, without a query or a user")
    _check_port(text)


def _check_port(address: str) -> None:
    found = _PORT.match(address)
    if found and not (found[1].isdecimal() and 1 <= int(found[1][:6]) <= 65535):
        raise ValueError(f"its port is {found[1][:20]}; allowed: a number from 1 to 65535")


def _check_exchange(text: str) -> None:
    method, _, address = text.partition(" ")
    if method not in {"POST", "GET", "PUT"}:
        raise ValueError('allowed: a method and an address, as in "POST /auth/token"')
    _check_address(address)


def _check_json(value: object) -> None:
    if not isinstance(value, dict | list | str | int) and not (isinstance(value, float) and math.isfinite(value)):
        raise ValueError("JSON has no such value; write it as text")


_CHECKS: Final[dict[str, Callable[[Any], None]]] = {
    "expression": check_expression,
    "address": _check_address,
    "base_url": _check_base_url,
    "exchange": _check_exchange,
    "json": _check_json,
}
