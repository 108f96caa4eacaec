"""Endpoint filters: a JMESPath expression over the event; JMESPath cannot loop and has no regular expressions.

It can multiply, though: `[@,@][]` doubles what it is given, `join` repeats its first argument. Filters are judged in
the transaction that records a run, so both are bounded: how much an expression may gather is counted when it is made,
how much it does when an event comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.visitor import Options, TreeInterpreter

from bridge.domain.run import Json

FILTER_CHARS_MAX: Final = 1024
GATHERINGS_MAX: Final = 8  # [a, b] and {a: b}; each may double what follows
STEPS_MAX: Final = 50_000  # of about a microsecond
TEXT_CHARS_MAX: Final = 1024 * 1024  # that one function may make; an event has a quarter of it
_ITEMS_PER_STEP: Final = 8  # where Python's own loops do the work
_CHARS_PER_STEP: Final = 1024


class TooCostly(JMESPathError):  # type: ignore[misc]
    """The filter does more on this event than STEPS_MAX allows."""


@lru_cache(maxsize=256)
def compile_filter(expression: str) -> Any:
    """The compiled expression; ValueError with what is wrong in it."""
    if len(expression) > FILTER_CHARS_MAX:
        raise ValueError(f"a filter has at most {FILTER_CHARS_MAX} characters")
    try:
        compiled = jmespath.compile(expression)
        nodes = list(_nodes_of(compiled.parsed))
    except (JMESPathError, RecursionError) as error:
        raise ValueError(f"not a JMESPath expression: {str(error).splitlines()[0]}") from None
    for node in nodes:
        if node["type"] == "function_expression":
            _check_call(node["value"], len(node["children"]))
    if sum(node["type"] in {"multi_select_list", "multi_select_dict"} for node in nodes) > GATHERINGS_MAX:
        raise ValueError(f"a filter may hold at most {GATHERINGS_MAX} lists or objects of its own ([a, b] or {{a: b}})")
    return compiled


def matches(expression: str, event_body: Json) -> bool:
    """Whether the event passes; an expression that fails on this event, or costs too much, lets nothing through."""
    try:
        found = _Accountant().visit(compile_filter(expression).parsed, event_body)
    except (JMESPathError, RecursionError, ValueError, TypeError, ArithmeticError):  # functions raise Python's own too
        return False
    return found is not None and found is not False and found not in ("", [], {})  # 0 is true, as JMESPath has it


def _nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += [child for child in found["children"] if isinstance(child, dict)]


def _check_call(name: str, given: int) -> None:
    if name not in Functions.FUNCTION_TABLE:
        raise ValueError(f"not a JMESPath expression: there is no function {name}()")
    signature = Functions.FUNCTION_TABLE[name]["signature"]
    is_open = bool(signature[-1].get("variadic"))
    if given < len(signature) or (given > len(signature) and not is_open):
        wanted = f"{'at least ' if is_open else ''}{len(signature)} argument{'s' if len(signature) > 1 else ''}"
        raise ValueError(f"not a JMESPath expression: {name}() takes {wanted}, not {given}")


class _Accountant(TreeInterpreter):  # type: ignore[misc]
    """Evaluates one expression on one event and counts what it does; TooCostly beyond STEPS_MAX."""

    def __init__(self) -> None:
        super().__init__(Options(custom_functions=_CountedFunctions(self)))
        self.steps = 0

    def spend(self, steps: int) -> None:
        """Count `steps`."""
        self.steps += steps
        if self.steps > STEPS_MAX:
            raise TooCostly

    def weigh(self, value: Any) -> int:
        """Items, characters and digits in `value`, shared parts as often as they stand in it; counted."""
        weight, waiting = 0, [value]
        while waiting:
            found = waiting.pop()
            self.spend(1)
            weight += 1
            match found:
                case dict():
                    waiting += [*found.values(), *found.keys()]
                case list():
                    waiting += found
                case str():
                    weight += len(found)
                case int():
                    weight += found.bit_length() // 3
        return weight

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        """As TreeInterpreter."""
        self.spend(1)
        return super().visit(node, *args, **kwargs)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        """As TreeInterpreter; the only operator that makes more of a list than there is in the event."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        parts = [each if isinstance(each, list) else [each] for each in base]
        self.spend(sum(map(len, parts)))
        return [each for part in parts for each in part]

    def visit_comparator(self, node: Any, value: Any) -> Any:
        """As TreeInterpreter; comparing goes as deep as the smaller side."""
        if node["value"] not in self._EQUALITY_OPS:
            return super().visit_comparator(node, value)
        left, right = (self.visit(child, value) for child in node["children"])
        if isinstance(left, (list, dict)) and isinstance(right, (list, dict)) and len(left) == len(right):
            self.weigh(right)
        return self.COMPARATOR_FUNC[node["value"]](left, right)


class _CountedFunctions(Functions):  # type: ignore[misc]
    """The functions of JMESPath, each counted before it begins."""

    def __init__(self, accountant: _Accountant) -> None:
        self._accountant = accountant

    def call_function(self, function_name: str, resolved_args: list[Any]) -> Any:
        """As Functions."""
        self._accountant.spend(sum(map(_steps_over, resolved_args)))
        if self._text_made(function_name, resolved_args) > TEXT_CHARS_MAX:
            raise TooCostly
        return super().call_function(function_name, resolved_args)

    def _text_made(self, name: str, given: list[Any]) -> int:
        """Characters at least that a function will make; spends what it takes to look into its arguments."""
        match name, given:
            case "join", [str(separator), list(texts)]:
                return len(separator) * len(texts) + sum(len(text) for text in texts if isinstance(text, str))
            case "to_string", [list() | dict() as value]:
                return self._accountant.weigh(value)
            case "contains", [list(items), list() | dict() as wanted]:
                self._accountant.spend(len(items) * self._accountant.weigh(wanted))
        return 0


def _steps_over(value: Any) -> int:
    match value:
        case str():
            return len(value) // _CHARS_PER_STEP
        case list() | dict():
            return len(value) // _ITEMS_PER_STEP
    return 0
