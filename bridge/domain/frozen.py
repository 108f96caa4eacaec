"""A dataclass for objects that are created thousands of times a second: frozen by mypy, not by Python.

`@dataclass(frozen=True)` sets each field through `object.__setattr__`: creating a run, with 36 fields, takes 13 µs
that way and 2 µs with this decorator. mypy rejects an assignment to a field all the same.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Make a slotted dataclass whose fields mypy treats as read-only."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


def replaced(one: T, **changes: Any) -> T:
    """`dataclasses.replace` for hot paths: 2.4 µs for a run instead of 6.7."""
    kind: Any = type(one)
    values_of, position_of = _layout(kind)
    values = list(values_of(one))
    for name, value in changes.items():
        values[position_of[name]] = value
    copy: T = kind(*values)
    return copy


@functools.cache
def _layout(cls: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], Mapping[str, int]]:
    """A getter of all fields (at least two), and the position of each."""
    names = [field.name for field in fields(cls)]
    return operator.attrgetter(*names), {name: position for position, name in enumerate(names)}
