"""Refuse filters that can never match: names that no event has, text in double quotes, values that are never equal.

A filter is walked beside the shape of an event. A shape is a dict of names, a list of one shape, a tuple of words (one
of which the text is), TEXT, NUMBER or BOOLEAN, OBJECT of unknown names, or ANY for what providers and clients choose.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from bridge.domain.event import EventType, run_body
from bridge.domain.filter import compile_filter
from bridge.domain.jmespath_interpreter import check_quotes, quoted
from bridge.domain.run import Run, RunStatus
from bridge.domain.suggestions import closest

ANY: Final = object()
TEXT: Final = "text"
NUMBER: Final = "a number"
BOOLEAN: Final = "true or false"
OBJECT: Final = "an object"
_PLAIN: Final = (TEXT, NUMBER, BOOLEAN)
_JMESPATH_TYPES: Final = ("string", "number", "boolean", "array", "object", "null")
_RESULTS: Final[dict[str, Any]] = {
    **dict.fromkeys(("length", "to_number", "sum", "avg", "abs", "ceil", "floor"), NUMBER),
    **dict.fromkeys(("contains", "starts_with", "ends_with"), BOOLEAN),
    **dict.fromkeys(("to_string", "join"), TEXT),
    "type": _JMESPATH_TYPES,
}
_SIGNS: Final = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_STATUSES: Final = tuple(status.value for status in RunStatus)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_PLAIN_RUN: Final = Run(
    id="", connection="", provider="", provider_run_id="", registered_at=_EPOCH, status_since=_EPOCH, metadata={}
)
_RUN: Final[dict[str, Any]] = {
    **dict.fromkeys(run_body(_PLAIN_RUN), TEXT),
    **dict.fromkeys(("settled", "output_truncated"), BOOLEAN),
    "status": _STATUSES,
    "progress": {"completed": NUMBER, "total": NUMBER},
    "error": {"message": TEXT, "code": TEXT, "step": TEXT},
    "output": ANY,
    "output_url": TEXT,
    "metadata": OBJECT,
    "tags": [TEXT],
}
_EVENT: Final[dict[str, Any]] = {
    "id": TEXT,
    "type": tuple(kind.value for kind in EventType),
    "timestamp": TEXT,
    "data": {
        "sequence": NUMBER,
        "previous_status": _STATUSES,
        "run": _RUN,
        "connection": OBJECT,
        "endpoint": OBJECT,
    },
}
_DEEPER: Final = {name: f"data.{name}" for name in _EVENT["data"]} | {
    name: f"data.run.{name}" for name in _RUN if name not in _EVENT
}


def check_filter(expression: str) -> None:
    """Raise a ValueError with the remedy if the expression is wrong or can never match."""
    tree = compile_filter(expression).tree
    check_quotes(expression)
    try:
        _check_condition(tree)
        _walk(tree, _EVENT, "")
    except RecursionError:
        raise ValueError("the filter is nested too deeply") from None


def _check_condition(node: dict[str, Any]) -> None:
    """Refuse a text as a condition: it is always true, as in `data.run.status == 'failed' || 'lost'`."""
    if node["type"] in ("and_expression", "or_expression", "not_expression"):
        for child in node["children"]:
            _check_condition(child)
    elif node["type"] == "literal" and isinstance(node["value"], str) and node["value"]:
        text = quoted(node["value"])
        raise ValueError(f"{text} alone is always true; compare it with a field, as in data.run.status == {text}")


def _walk(node: dict[str, Any], shape: Any, path: str) -> tuple[Any, str]:
    """The shape of what a node finds in `shape`, and its path in the event if it has one."""
    children = node["children"]
    match node["type"]:
        case "field":
            return _field(node["value"], shape, path)
        case "subexpression" | "index_expression" | "pipe":
            for child in children:
                shape, path = _walk(child, shape, path)
            return shape, path
        case "current" | "identity":
            return shape, path
        case "index":
            if isinstance(shape, dict | tuple) or shape in (*_PLAIN, OBJECT):
                raise ValueError(f"`{path}` is not a list, so [{node['value']}] finds nothing")
            return (shape[0] if isinstance(shape, list) else ANY), f"{path}[{node['value']}]"
        case "slice":
            return shape, path
        case "flatten":
            found, where = _walk(children[0], shape, path)
            return (found if isinstance(found, list) else ANY), where
        case "projection" | "value_projection" | "filter_projection":
            found, where = _walk(children[0], shape, path)
            each = found[0] if isinstance(found, list) and node["type"] != "value_projection" else ANY
            for child in children[1:]:
                _walk(child, each, f"{where}[]")
            return ANY, ""
        case "comparator":
            _compare(node["value"], children[0], children[1], shape, path)
            return BOOLEAN, ""
        case "function_expression":
            given = [_walk(child, shape, path) for child in children if child["type"] != "expref"]
            each = next((found[0] for found, _ in given if isinstance(found, list)), ANY)
            _check_words(node["value"], children, given)
            for child in children:
                if child["type"] == "expref":
                    _walk(child["children"][0], each, "")
            return _RESULTS.get(node["value"], ANY), f"{node['value']}()"
        case "not_expression":
            _walk(children[0], shape, path)
            return BOOLEAN, "!"
        case "literal":
            return ANY, ""
        case _:  # and, or, lists and objects of one's own
            for child in children:
                _walk(child, shape, path)
            return ANY, ""


def _field(name: str, shape: Any, path: str) -> tuple[Any, str]:
    where = f"{path}.{name}" if path else name
    if isinstance(shape, dict):
        if name in shape:
            return shape[name], where
        meant = _DEEPER.get(name) if shape is _EVENT else None
        meant = meant or closest(name, shape)
        if meant:
            raise ValueError(f"no event has `{where[:200]}`; did you mean `{meant}`?")
        if path:
            raise ValueError(f"no event has `{where[:200]}`; there are {', '.join(shape)}")
        if name in ("null", "true", "false"):
            raise ValueError(
                f"no event has a field `{name}`; write the value in backticks, as in data.run.error == `null`"
            )
        raise ValueError(f"no event has a field `{name[:100]}`; write text in single quotes: {quoted(name)}")
    if path == "!":
        raise ValueError("`!` applies before the dot; add parentheses, as in !(data.run.settled)")
    if isinstance(shape, tuple) or shape in _PLAIN:
        raise ValueError(f"`{path}` is a plain value without fields, so `{where[:200]}` finds nothing")
    if isinstance(shape, list):
        message = f"`{path}` is a list; write `{path}[].{name[:100]}`, or contains({path}, 'text')"
        raise ValueError(message)  # noqa: TRY004 - collected with the other mistakes
    return ANY, where


def _compare(operator: str, left: dict[str, Any], right: dict[str, Any], shape: Any, path: str) -> None:
    (found, where), (other, elsewhere) = _walk(left, shape, path), _walk(right, shape, path)
    if left["type"] == right["type"] == "literal":
        raise ValueError(
            "both sides of a comparison are constants; name a field of the event on one, as in data.run.status"
        )
    if operator in _SIGNS:
        _check_order(_SIGNS[operator], [(left, found, where), (right, other, elsewhere)])
    for words, name, constant in ((found, where, right), (other, elsewhere, left)):
        kind, value = _kind_of(words), constant.get("value")
        if operator != "eq" or constant["type"] != "literal" or value is None:
            continue
        given = _kind_of_value(value)
        if isinstance(words, tuple) and value not in words:
            meant = closest(value, words) if isinstance(value, str) else None
            remedy = f"did you mean '{meant}'?" if meant else f"it is one of {', '.join(words)}"
            raise ValueError(f"`{name}` is never {quoted(str(value))}; {remedy}")
        if kind not in (given, None):
            raise ValueError(f"`{name}` is {kind} and never equals {given}; {_remedy(kind, name, value)}")


def _check_order(sign: str, sides: list[tuple[dict[str, Any], Any, str]]) -> None:
    """Numbers are ordered, and texts; a number and a text are not."""
    kinds = set[str]()
    for node, shape, path in sides:
        value = node["value"] if node["type"] == "literal" else None
        kind = _kind_of(shape) if value is None else _kind_of_value(value)
        if kind not in (NUMBER, TEXT, None):
            name = f"`{path}`" if value is None else quoted(str(value))
            raise ValueError(f"`{sign}` compares numbers, or texts, and {name} is {kind}")
        kinds |= {kind} if kind else set()
    if len(kinds) > 1:
        raise ValueError(f"`{sign}` never holds between {TEXT} and {NUMBER}; write a number in backticks, as in `3`")


def _check_words(function: str, children: list[dict[str, Any]], given: list[tuple[Any, str]]) -> None:
    """Refuse a search for text in words of which none has it, or among texts of which none is one of the words."""
    tests = {"starts_with": str.startswith, "ends_with": str.endswith, "contains": str.__contains__}
    if function not in tests or len(given) != 2:
        return
    (words, name), (sought, elsewhere) = given
    text = children[1].get("value") if children[1]["type"] == "literal" else None
    if isinstance(words, tuple) and isinstance(text, str) and not any(tests[function](word, text) for word in words):
        raise ValueError(f"no `{name}` passes {function}(…, {quoted(text)}); it is one of {', '.join(words)}")
    items = children[0]["children"] if children[0]["type"] == "multi_select_list" else []
    listed = [item.get("value") for item in items if item["type"] == "literal"]
    is_known = bool(listed) and len(listed) == sum(item["type"] == "literal" for item in items) == len(items)
    if function == "contains" and isinstance(sought, tuple) and is_known and not set(sought) & set(map(str, listed)):
        raise ValueError(f"`{elsewhere}` is none of these; it is one of {', '.join(sought)}")


def _kind_of(shape: Any) -> str | None:
    match shape:
        case tuple():
            return TEXT
        case dict():
            return OBJECT
        case list():
            return "a list"
    return str(shape) if shape in (*_PLAIN, OBJECT) else None


def _kind_of_value(value: Any) -> str:
    match value:
        case bool():
            return BOOLEAN
        case str():
            return TEXT
        case int() | float():
            return NUMBER
    return "a list" if isinstance(value, list) else OBJECT


def _remedy(kind: str, name: str, value: Any) -> str:
    if kind == BOOLEAN:
        return f"write `{name}` alone, or !({name})"
    if kind == NUMBER:
        return "write a number in backticks, as in `3`"
    if kind == TEXT:
        return f"write text in single quotes: {quoted(str(value))}"
    return f"write contains({name}, {quoted(str(value))})" if kind == "a list" else "compare one of its fields"
