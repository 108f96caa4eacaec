"""Endpoint filters: a JMESPath expression over an event's body, bounded in what it may cost.

Filters are evaluated in the transaction that records a run. How much an expression may gather is checked when an
endpoint is made, how many steps it takes when an event comes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from jmespath.exceptions import JMESPathError

from bridge.domain.errors import FilterFailed, FilterTooCostly
from bridge.domain.jmespath_interpreter import Expression, TooCostly
from bridge.domain.run import Json

FILTER_CHARS_MAX: Final = 1024
GATHERINGS_MAX: Final = 8  # [a, b] and {a: b}; each may double what follows
STEPS_MAX: Final = 50_000  # of about a microsecond
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_INSTEAD: Final = (  # what other languages have, and what JMESPath has for it
    (r"^\s*$", "write a condition, as in data.run.status == 'failed'"),
    (r"===|=~|[^=!<>]=(?!=)", "compare with =="),
    (r"\b(?:and|or|not)\b", "write && for and, || for or, ! for not"),
    (r"\bin\b", "write contains(['failed', 'lost'], data.run.status) for one of these"),
    (r"\w+(?:-\w+)+", 'a name with a dash stands in double quotes: "{}"'),
    (r"\w\[''\]", "write a dot before a name, as in data.run.status"),
    (r"^\s*\$", "a path begins with a name, as in data.run.status"),
)


@lru_cache(maxsize=256)
def compile_filter(expression: str) -> Expression:
    """The compiled expression; ValueError says what is wrong with it."""
    if len(expression) > FILTER_CHARS_MAX:
        raise ValueError(f"a filter has at most {FILTER_CHARS_MAX} characters")
    try:
        compiled = Expression(expression)
    except ValueError as error:
        said = str(error).rstrip(": ").removesuffix(", for expression")
        raise ValueError(said + _remedy(expression)) from None
    if sum(node["type"] in {"multi_select_list", "multi_select_dict"} for node in compiled.nodes) > GATHERINGS_MAX:
        raise ValueError(f"a filter may hold at most {GATHERINGS_MAX} lists or objects of its own ([a, b] or {{a: b}})")
    return compiled


def _remedy(expression: str) -> str:
    """Advice about a text that is no JMESPath expression, as the end of a sentence; empty if there is none."""
    plain = _QUOTED.sub("''", expression)
    found = next((match for form, _ in _INSTEAD if (match := re.search(form, plain))), None)
    return "" if found is None else "; " + dict(_INSTEAD)[found.re.pattern].format(found[0].strip())


def evaluate(expression: str, event_body: Json, *, steps_max: int = STEPS_MAX) -> bool:
    """Whether the event passes; raises FilterFailed if the expression fails on this event or costs too much."""
    try:
        found: Any = compile_filter(expression).search(event_body, steps_max=steps_max)
    except TooCostly:
        raise FilterTooCostly(f"takes more than {steps_max} steps on this event") from None
    except (JMESPathError, RecursionError, ValueError, TypeError, ArithmeticError) as error:  # functions raise Python's
        raise FilterFailed(str(error).partition("\n")[0] or type(error).__name__) from None
    return found is not None and found is not False and found not in ("", [], {})  # 0 is true, as JMESPath has it


def matches(expression: str, event_body: Json) -> bool:
    """Whether the event passes the filter; False if the expression fails on it."""
    try:
        return evaluate(expression, event_body)
    except FilterFailed:
        return False
