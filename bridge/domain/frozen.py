"""A dataclass for what is made thousands of times a second: frozen by mypy, not by Python.

Each field of `@dataclass(frozen=True)` is set through `object.__setattr__`: a run, of 36 fields, takes 13 µs to be
made so, and 2 µs with this. Nobody changes one all the same, because mypy lets nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """A slotted dataclass that is not to be changed."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
