"""Validate a request and name every field at fault, each with the remedy. Never shows a given value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bridge.domain.errors import InvalidInput, Problem
from bridge.domain.suggestions import dotted
from bridge.domain.validation import describe

M = TypeVar("M", bound=BaseModel)

_WORDS = {
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
}


def read_given(model: type[M], given: object, *, context: object, what: str = "field") -> M:
    """`given` as `model`, validated with `context`. Raises InvalidInput, which names every field at fault."""
    try:
        return model.model_validate(given, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise InvalidInput([_problem(detail, model, what) for detail in details]) from None


def _problem(error: ErrorDetails, model: type[BaseModel], what: str) -> Problem:
    is_body = what == "field"  # in a query a list is written with commas, and its items have no place
    location = [part for part in error["loc"] if part != "[key]" and (is_body or isinstance(part, str))]
    return Problem(dotted(location) or "(body)", describe(error, what, _known_fields(model, error["loc"][:-1]), _WORDS))


def _known_fields(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return [name for field, info in model.model_fields.items() for name in _names(field, info.validation_alias)]


def _names(field: str, alias: Any) -> list[str]:
    return [str(alias.choices[0])] if hasattr(alias, "choices") else [alias or field]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
