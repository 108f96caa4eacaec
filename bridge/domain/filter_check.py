"""Refuse filters that can never match: names that no event has, and text that is not in single quotes.

A filter is walked beside the shape of an event. A shape is a dict of names, a list of one shape, a tuple of words (one
of which the text is), SCALAR for other plain values, or ANY for what providers and clients choose.
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
SCALAR: Final = object()
_STATUSES: Final = tuple(status.value for status in RunStatus)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_PLAIN_RUN: Final = Run(
    id="", connection="", provider="", provider_run_id="", registered_at=_EPOCH, status_since=_EPOCH, metadata={}
)
_RUN: Final[dict[str, Any]] = {
    **dict.fromkeys(run_body(_PLAIN_RUN), SCALAR),
    "status": _STATUSES,
    "progress": {"completed": SCALAR, "total": SCALAR},
    "error": {"message": SCALAR, "code": SCALAR, "step": SCALAR},
    "output": ANY,
    "output_url": SCALAR,
    "metadata": ANY,
    "tags": [SCALAR],
}
_EVENT: Final[dict[str, Any]] = {
    "id": SCALAR,
    "type": tuple(kind.value for kind in EventType),
    "timestamp": SCALAR,
    "data": {
        "sequence": SCALAR,
        "previous_status": _STATUSES,
        "run": _RUN,
        "connection": ANY,
        "endpoint": ANY,
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
        _walk(tree, _EVENT, "")
    except RecursionError:
        raise ValueError("the filter is nested too deeply") from None


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
            return SCALAR, ""
        case "function_expression":
            lists = [_walk(child, shape, path)[0] for child in children if child["type"] != "expref"]
            each = next((found[0] for found in lists if isinstance(found, list)), ANY)
            for child in children:
                if child["type"] == "expref":
                    _walk(child["children"][0], each, "")
            return ANY, ""
        case "not_expression":
            _walk(children[0], shape, path)
            return SCALAR, "!"
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
        raise ValueError(f"no event has a field `{name[:100]}`; write text in single quotes: {quoted(name)}")
    if path == "!":
        raise ValueError("`!` applies before the dot; add parentheses, as in !(data.run.settled)")
    if shape is SCALAR or isinstance(shape, tuple):
        raise ValueError(f"`{path}` is a plain value without fields, so `{where[:200]}` finds nothing")
    if isinstance(shape, list):
        message = f"`{path}` is a list; write `{path}[].{name[:100]}`, or contains({path}, 'text')"
        raise ValueError(message)  # noqa: TRY004 - collected with the other mistakes
    return ANY, where


def _compare(operator: str, left: dict[str, Any], right: dict[str, Any], shape: Any, path: str) -> None:
    (found, where), (other, elsewhere) = _walk(left, shape, path), _walk(right, shape, path)
    for words, name, constant in ((found, where, right), (other, elsewhere, left)):
        value = constant.get("value")
        is_text = constant["type"] == "literal" and value is not None
        if operator == "eq" and is_text and isinstance(words, tuple) and value not in words:
            meant = closest(value, words) if isinstance(value, str) else None
            remedy = f"did you mean '{meant}'?" if meant else f"it is one of {', '.join(words)}"
            raise ValueError(f"`{name}` is never {quoted(str(value))}; {remedy}")
