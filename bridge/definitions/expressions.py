"""Expressions of definitions: JMESPath, checked when a file is read and evaluated within a budget.

An evaluation has three outcomes: a value, nothing, or a failure. A failure is noted, and is never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from bridge.domain.jmespath_interpreter import CountingInterpreter, Expression, TooCostly, check_quotes
from bridge.domain.run import Json

CHARS_MAX: Final = 512
LEVELS_MAX: Final = 32
STEPS_MAX: Final = 50_000  # for one expression on one answer; a step takes about a microsecond
ANSWER_STEPS_MAX: Final = 500_000  # for all expressions on one answer, or on one page of a list
_PLAIN: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_REMEDIES: Final = {  # what people write, and what JMESPath wants instead
    r"[^=!<>]=[^=]": "compare with `==`",
    r"\b(?:and|or|not)\b": "and is `&&`, or is `||`, not is `!`",
    r"[=<>]\s*-?\d": "a number stands in backticks, as in `` `0` ``",
    r"\$": "a path begins with a name, without `$`",
    r"^[^\"']*?(@\w[\w.]*|[A-Za-z_]\w*(?:[-@]\w+)+)": 'a name with - or @ needs double quotes: "{}"',
    r"^[^\"']*\w \w": "text stands in single quotes, as in `'done'`",
}
_LITERAL_WORDS: Final = frozenset({"null", "true", "false"})


class Notes(list[str]):
    """Sentences about what could not be read in one answer, and the steps that are left for its expressions."""

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
        if node["type"] == "field" and node["value"] in _LITERAL_WORDS:
            raise ValueError(f"`{node['value']}` is a field name here; write `` `{node['value']}` `` in backticks")


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Expression:
    try:
        return Expression(text)
    except ValueError as error:
        tried = ((re.search(form, text), remedy) for form, remedy in _REMEDIES.items())
        remedies = [f"; {remedy.format(*found.groups())}" for found, remedy in tried if found]
        raise ValueError(f"{str(error).rstrip(':')}{''.join(remedies[:1])}") from None


def _depth(tree: dict[str, Any]) -> int:
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, level = waiting.pop()
        deepest = max(deepest, level)
        waiting += [(child, level + 1) for child in node["children"] if isinstance(child, dict)]
    return deepest


def find(paths: str | list[str], body: Json, notes: Notes, key: str = "") -> Any:
    """The first value of the paths that is not null; None if there is none. A path that fails is noted as of `key`."""
    return finder(paths if isinstance(paths, str) else tuple(paths), key)(body, notes)


@lru_cache(maxsize=4096)
def finder(paths: str | tuple[str, ...], key: str) -> Find:
    """`find` for these paths, compiled: plain names take a fifth of the time of the interpreter."""
    if not isinstance(paths, str):
        several = [finder(path, key) for path in paths]
        return lambda body, notes: next((found for one in several if (found := one(body, notes)) is not None), None)
    if not _PLAIN.fullmatch(paths):
        return _evaluator(paths, key)
    first, *others = paths.split(".")
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


def paths_of(text: str) -> list[tuple[str, ...]] | None:
    """The names, from the top of the answer, that an expression may read; None if that may be any."""
    if _PLAIN.fullmatch(text):
        return [tuple(text.split("."))]
    nodes = _compiled(text).nodes
    if "@" in text or any(node["type"] == "value_projection" for node in nodes):
        return None
    return [(node["value"],) for node in nodes if node["type"] == "field"]
