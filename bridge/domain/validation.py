"""pydantic's errors as problems that a person can act on. Never shows a given value: it could be a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic_core import ErrorDetails

from bridge.domain.suggestions import unknown

_EXPECTED = {
    "missing": "is required",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "this number is too large",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_too_short": "must not be empty",  # no field has a higher minimum
    "too_short": "must not be empty",
}


def describe(error: ErrorDetails, what: str, known: Sequence[str], words: Mapping[str, str]) -> str:
    """The sentence for one error; `what` and `known` name an unknown key, `words` says how the format spells types."""
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return unknown(what, str(error["loc"][-1]), known)
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "greater_than":
            return f"must be more than {context['gt']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "string_too_long":
            return f"may have at most {context['max_length']} characters"
        case "too_long":
            return f"may have at most {context['max_length']} entries"
        case "value_error":
            return str(context["error"])
        case kind:
            return words.get(kind) or _EXPECTED.get(kind, error["msg"])
