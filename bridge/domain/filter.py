"""Endpoint filters: a JMESPath expression over the event; JMESPath cannot loop and has no regular expressions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from bridge.domain.run import Json

FILTER_CHARS_MAX = 1024


@lru_cache(maxsize=256)
def compile_filter(expression: str) -> Any:
    """The compiled expression; ValueError with what is wrong in it."""
    if len(expression) > FILTER_CHARS_MAX:
        raise ValueError(f"a filter has at most {FILTER_CHARS_MAX} characters")
    try:
        return jmespath.compile(expression)
    except (JMESPathError, RecursionError) as error:
        raise ValueError(f"not a JMESPath expression: {str(error).splitlines()[0]}") from None


def matches(expression: str, event_body: Json) -> bool:
    """Whether the event passes; an expression that fails on this event lets nothing through."""
    try:
        return compile_filter(expression).search(event_body) not in (None, False, "", [], {})
    except (JMESPathError, RecursionError, ValueError):
        return False
