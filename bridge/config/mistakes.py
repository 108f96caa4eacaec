"""Mistakes in the configuration as sentences: what is wrong where, and the remedy.

Never shows a value that was given: it could be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from pydantic_core import ErrorDetails

from bridge.domain.errors import InvalidInput

_EXPECTED = {
    "string_type": "expected text in quotes",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "this number is too large",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "tuple_type": 'expected a list such as ["…", "…"]',
    "dict_type": 'expected a table such as { name = "value" }',
}


class ConfigInvalid(InvalidInput):
    """The configuration cannot be used; every mistake is named with its key and the remedy."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The member of `known` that `word` was probably meant to be, if any."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def unknown(what: str, word: str, known: Sequence[str]) -> str:
    """The sentence for something unknown: what was probably meant, or what there is."""
    meant = closest(word, known)
    return f"unknown {what}; did you mean `{meant}`?" if meant else f"unknown {what}; known: {', '.join(sorted(known))}"


def one_of(value: object, known: Sequence[str]) -> str:
    """`value` if it is a member of `known`; ValueError with the nearest member otherwise."""
    if not isinstance(value, str):
        raise ValueError(f"expected one of {', '.join(known)}")  # noqa: TRY004 - pydantic collects ValueErrors
    if value in known:
        return value
    meant = closest(value, known) or next((word for word in known if sorted(word) == sorted(value.lower())), None)
    raise ValueError(f"expected one of {', '.join(known)}" + (f"; did you mean `{meant}`?" if meant else ""))


def dotted(parts: Iterable[object]) -> str:
    """A path as the operator would write it: `delivery.allow[0]`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def describe(error: ErrorDetails, known_keys: Sequence[str], missing: str) -> str:
    """The sentence for one pydantic error; `missing` is the remedy where a required key is absent."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return missing
        case "extra_forbidden":
            return unknown("key", str(error["loc"][-1]), known_keys)
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "greater_than":
            return f"must be more than {context['gt']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "value_error":
            return str(context["error"])
        case kind:
            return _EXPECTED.get(kind, error["msg"])
