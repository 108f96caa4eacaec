"""Expressions of definitions: JMESPath, checked when a file is read and evaluated within a budget.

An evaluation has three outcomes: a value, nothing, or a failure. A failure is noted, and is never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from bridge.domain.errors import BridgeError
from bridge.domain.jmespath_interpreter import Expression, TooCostly, check_quotes
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
    """What could not be read in one answer, as sentences, and the steps that are left for its expressions."""

    steps_left = ANSWER_STEPS_MAX


Search = Callable[[Json, Notes], Any]


class ExpressionFailed(BridgeError):
    """The expression cannot be evaluated on this answer."""


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


@lru_cache(maxsize=4096)
def search(text: str) -> Search:
    """The function that evaluates a checked expression; it raises ExpressionFailed."""
    if _PLAIN.fullmatch(text):
        return _plain(tuple(text.split(".")))
    expression = _compiled(text)

    def evaluate(value: Json, notes: Notes) -> Any:
        allowed = max(0, min(STEPS_MAX, notes.steps_left))
        try:
            found, steps = expression.counted_search(value, steps_max=allowed)
        except TooCostly:
            notes.steps_left -= allowed
            raise ExpressionFailed(f"`{text}` takes too long on this answer") from None
        except Exception as error:  # noqa: BLE001 - jmespath raises Python's own errors for some values
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ExpressionFailed(f"`{text}` fails: {said[:200]}") from None
        notes.steps_left -= steps
        return found

    return evaluate


def _plain(names: tuple[str, ...]) -> Search:
    """A path of names, which is what most expressions are, in a fifth of the time of the interpreter."""
    if len(names) == 1:
        [only] = names
        return lambda value, _notes: value.get(only) if isinstance(value, dict) else None

    def walk(value: Json, _notes: Notes) -> Json:
        for name in names:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    return walk


def find(paths: str | list[str], body: Json, notes: Notes, key: str = "") -> Any:
    """The first value of the paths that is not null; None if there is none. A path that fails is noted as of `key`."""
    for path in [paths] if isinstance(paths, str) else paths:
        try:
            value = search(path)(body, notes)
        except ExpressionFailed as failed:
            notes.append(f"{key}: {failed}")
            continue
        if value is not None:
            return value
    return None


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
