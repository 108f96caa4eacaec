"""Everything that leans on private interfaces of jmespath, in one file. Read on jmespath 1.1.0.

Used here and nowhere else: the parsed tree (`parsed`: nodes with `type`, `children` and `value`), the tokens of `Lexer`,
`TreeInterpreter` with its `visit_…` methods, and `Functions` with its `FUNCTION_TABLE` and `call_function`.
`tests/domain/test_jmespath_interpreter.py` fails when the source of any of them changes.

JMESPath cannot loop and has no regular expressions. It can multiply, though: `[@,@][]` doubles what it is given, `join`
repeats its first argument. So the interpreter counts steps, of about a microsecond each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.lexer import Lexer
from jmespath.visitor import Options, TreeInterpreter

from bridge.domain.run import Json
from bridge.domain.suggestions import closest

TEXT_CHARS_MAX: Final = 1024 * 1024  # that one function may make; an event has a quarter of it
_ITEMS_PER_STEP: Final = 8  # where Python's own loops do the work
_CHARS_PER_STEP: Final = 1024


class TooCostly(JMESPathError):  # type: ignore[misc]  # jmespath has no types
    """The expression takes more steps on this value than allowed."""


class Expression:
    """A compiled expression; ValueError if it is none. `nodes` are those of its `tree`, in no particular order."""

    def __init__(self, text: str) -> None:
        try:
            self.tree: dict[str, Any] = jmespath.compile(text).parsed
            self.nodes = list(_nodes_of(self.tree))
        except (JMESPathError, RecursionError) as error:
            raise ValueError(f"not a JMESPath expression: {str(error).splitlines()[0]}") from None
        for node in self.nodes:
            if node["type"] == "function_expression":
                _check_call(node["value"], len(node["children"]))

    def search(self, value: Json, *, steps_max: int) -> Any:
        """The result of the expression on `value`. Raises TooCostly, JMESPathError, and what Python's functions raise."""
        return CountingInterpreter(steps_max).visit(self.tree, value)


def check_quotes(expression: str) -> None:
    """Raise a ValueError for `== "failed"`, which compares with a field; JMESPath's text stands in single quotes."""
    before = ""
    for token in Lexer().tokenize(expression):
        if token["type"] == "quoted_identifier" and before in {"eq", "ne", "lt", "lte", "gt", "gte", "comma"}:
            raise ValueError(f"double quotes name a field; write text in single quotes: {quoted(token['value'])}")
        before = token["type"]


def quoted(text: str) -> str:
    """A text as JMESPath writes it."""
    return "'" + text[:100].replace("\\", "\\\\").replace("'", "\\'") + "'"


def _nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += [child for child in found["children"] if isinstance(child, dict)]


def _check_call(name: str, arguments: int) -> None:
    if name not in Functions.FUNCTION_TABLE:
        nearest = closest(name, Functions.FUNCTION_TABLE)
        meant = f"did you mean `{nearest}`?" if nearest else f"there are {', '.join(Functions.FUNCTION_TABLE)}"
        raise ValueError(f"not a JMESPath expression: there is no function {name}(); {meant}")
    signature = Functions.FUNCTION_TABLE[name]["signature"]
    is_open = bool(signature[-1].get("variadic"))
    if arguments < len(signature) or (arguments > len(signature) and not is_open):
        wanted = f"{'at least ' if is_open else ''}{len(signature)} argument{'s' if len(signature) > 1 else ''}"
        raise ValueError(f"not a JMESPath expression: {name}() takes {wanted}, not {arguments}")


class CountingInterpreter(TreeInterpreter):  # type: ignore[misc]  # jmespath has no types
    """Evaluates one expression on one value; raises TooCostly beyond `steps_max`."""

    def __init__(self, steps_max: int) -> None:
        super().__init__(Options(custom_functions=_CountingFunctions(self)))
        self.steps_left = steps_max

    def spend(self, steps: int) -> None:
        """Count `steps`."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise TooCostly

    def weigh(self, value: Any) -> int:
        """Count and return the items, characters and digits in `value`; shared parts as often as they occur in it."""
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
        if node["value"] not in {"eq", "ne"}:
            return super().visit_comparator(node, value)
        left, right = (self.visit(child, value) for child in node["children"])
        if isinstance(left, (list, dict)) and isinstance(right, (list, dict)) and len(left) == len(right):
            self.weigh(right)
        return self.COMPARATOR_FUNC[node["value"]](left, right)


class _CountingFunctions(Functions):  # type: ignore[misc]  # jmespath has no types
    """The functions of JMESPath; each call is counted before it begins."""

    def __init__(self, interpreter: CountingInterpreter) -> None:
        self._interpreter = interpreter

    def call_function(self, function_name: str, resolved_args: list[Any]) -> Any:
        """As Functions."""
        self._interpreter.spend(sum(map(_steps_over, resolved_args)))
        if self._chars_made(function_name, resolved_args) > TEXT_CHARS_MAX:
            raise TooCostly
        return super().call_function(function_name, resolved_args)

    def _chars_made(self, name: str, arguments: list[Any]) -> int:
        """The least number of characters that a call makes; spends what it takes to read its arguments."""
        match name, arguments:
            case "join", [str(separator), list(texts)]:
                return len(separator) * len(texts) + sum(len(text) for text in texts if isinstance(text, str))
            case "to_string", [list() | dict() as value]:
                return self._interpreter.weigh(value)
            case "contains", [list(items), list() | dict() as wanted]:
                self._interpreter.spend(len(items) * self._interpreter.weigh(wanted))
        return 0


def _steps_over(value: Any) -> int:
    match value:
        case str():
            return len(value) // _CHARS_PER_STEP
        case list() | dict():
            return len(value) // _ITEMS_PER_STEP
    return 0
