"""Expressions of definitions: JMESPath, checked when a file is read and evaluated within a budget.

An evaluation has three outcomes: a value, nothing, or a failure. A failure is noted, and is never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from bridge.definitions.remedies import remedy_for_text
from bridge.domain.jmespath_interpreter import CountingInterpreter, Expression, TooCostly, check_quotes
from bridge.domain.run import Json

CHARS_MAX: Final = 512
LEVELS_MAX: Final = 32
STEPS_MAX: Final = 50_000  # for one expression on one answer; a step takes about a microsecond
ANSWER_STEPS_MAX: Final = 500_000  # for all expressions on one answer, or on one page of a list
_PLAIN: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_LITERALS: Final = frozenset({"null", "true", "false"})
_LISTS: Final = frozenset({"projection", "value_projection", "filter_projection", "multi_select_list"})
_NULLS: Final = frozenset({"none", "nil", "undefined"})  # what other languages call null


class Notes(list[str]):
    """Remarks about what could not be read in one answer, and the evaluation steps that its expressions have left."""

    steps_left = ANSWER_STEPS_MAX


Find = Callable[[Json, Notes], Any]


def check_expression(text: str) -> None:
    """Raise a ValueError with the remedy if the text is no expression, or one that cannot mean what it says."""
    if len(text) > CHARS_MAX:
        raise ValueError(f"an expression has at most {CHARS_MAX} characters, this one has {len(text)}")
    if not text.strip():
        raise ValueError("the expression is empty; leave the key out instead")
    expression = _compiled(text)
    if _depth(expression.tree) > LEVELS_MAX:
        raise ValueError(f"an expression is nested at most {LEVELS_MAX} levels deep")
    check_quotes(text)
    for node in expression.nodes:
        for each in (node, *(node["children"] if node["type"] == "comparator" else ())):
            word = str(each.get("value")) if each["type"] == "field" else ""
            if word in _LITERALS or (each is not node and word.lower() in _LITERALS | _NULLS):
                literal = word.lower() if word.lower() in _LITERALS else "null"
                raise ValueError(f"`{word}` is a field name here; write `` `{literal}` `` in backticks")
        if problem := _never_true(node):
            raise ValueError(problem)


def _never_true(node: dict[str, Any]) -> str:
    """Why a part of an expression fails, or finds nothing, on every answer; empty if it does not."""
    children = node["children"]
    values = [child.get("value") for child in children if child["type"] == "literal"]
    if node["type"] in {"subexpression", "comparator"} and children[0]["type"] == "not_expression":
        return "`!` is read before what follows the name; write `!(a.b)`, and `a != b`"
    if node["type"] == "comparator" and len(values) == len(children):
        return "both sides are the same in every answer; a path stands without quotes"
    if node["type"] == "comparator" and node["value"] not in {"eq", "ne"}:
        text = next((value for value in values if isinstance(value, str)), None)
        remedy = "a number stands in backticks, as in `` `0` ``"
        return f"< and > compare numbers, and {text!r} is text; {remedy}" if text is not None else ""
    if node["type"] == "function_expression" and node["value"] == "contains":
        is_list = children[1]["type"] == "multi_select_list" or isinstance(children[1].get("value"), list)
        return "contains() takes the list first: `contains(['a', 'b'], name)`" if is_list else ""
    return ""


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Expression:
    try:
        return Expression(text)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip(':')}{remedy_for_text('expression', text)}") from None


def _depth(tree: dict[str, Any]) -> int:
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, level = waiting.pop()
        deepest = max(deepest, level)
        waiting += [(child, level + 1) for child in node["children"] if isinstance(child, dict)]
    return deepest


def find(paths: str | list[str], body: Json, notes: Notes, key: str = "") -> Any:
    """The first value of the paths that is not null; None if there is none. A path that fails is noted as of `key`."""
    return finder(paths, key)(body, notes)


def finder(paths: str | list[str], key: str) -> Find:
    """`find` for these paths, compiled."""
    if isinstance(paths, str):
        return _finder(paths, key)
    several = [_finder(path, key) for path in paths]
    return lambda body, notes: next((found for one in several if (found := one(body, notes)) is not None), None)


@lru_cache(maxsize=4096)
def _finder(path: str, key: str) -> Find:
    """`find` for one path; plain names take a fifth of the time of the interpreter."""
    if not _PLAIN.fullmatch(path):
        return _evaluator(path, key)
    first, *others = path.split(".")
    if not others:
        return lambda body, _notes: body.get(first) if isinstance(body, dict) else None

    def walk(body: Json, _notes: Notes) -> Json:
        value = body.get(first) if isinstance(body, dict) else None
        for name in others:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    return walk


def _evaluator(text: str, key: str) -> Find:
    expression = _compiled(text)

    def evaluate(body: Json, notes: Notes) -> Any:
        allowed = max(0, min(STEPS_MAX, notes.steps_left))
        interpreter = CountingInterpreter(allowed)
        try:
            return interpreter.visit(expression.tree, body)
        except TooCostly:
            notes.append(f"{key}: `{text}` takes too long on this answer")
        except Exception as error:  # noqa: BLE001 - jmespath raises Python's own errors for some values
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            notes.append(f"{key}: `{text}` fails: {said[:200]}")
        finally:
            notes.steps_left -= allowed - interpreter.steps_left
        return None

    return evaluate


def is_true(value: object) -> bool:
    """Whether JMESPath takes the value for true: everything but null, false and what is empty. 0 is true."""
    return not (value is None or value is False or value in ("", [], {}))


def makes_list(text: str) -> bool:
    """Whether an expression finds a list in every answer where it finds something."""
    return not _PLAIN.fullmatch(text) and _compiled(text).tree["type"] in _LISTS


def compared_names(text: str) -> list[str]:
    """The names on the right side of comparisons, which may be meant as text."""
    nodes = [] if _PLAIN.fullmatch(text) else _compiled(text).nodes
    return [node["children"][1]["value"] for node in nodes
            if node["type"] == "comparator" and node["children"][1]["type"] == "field"]  # fmt: skip


def paths_of(text: str) -> list[tuple[str, ...]] | None:
    """The names, from the top of the answer, that an expression may read; None if that may be any."""
    if _PLAIN.fullmatch(text):
        return [tuple(text.split("."))]
    nodes = _compiled(text).nodes
    if "@" in text or any(node["type"] == "value_projection" for node in nodes):
        return None
    return [(node["value"],) for node in nodes if node["type"] == "field"]
