"""Column types that both engines store in the same way, and readers of rows.

Instants are Unix microseconds in a BIGINT: exact, sortable and the same on both engines. JSON is text, because a
provider's numbers and keys must come out as they went in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from bridge.domain.ids import first_id

T = TypeVar("T")
CLOCK_SLACK: Final = timedelta(hours=1)
"""How far the time in an id may be from that of its row on machines whose clocks differ."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as Unix microseconds."""

    impl = sa.BigInteger
    cache_ok = True

    @staticmethod
    def encode(value: datetime | None) -> int | None:
        """Microseconds since 1970."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    @staticmethod
    def decode(value: int | None) -> datetime | None:
        """The aware datetime."""
        return None if value is None else _EPOCH + timedelta(0, 0, value)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """SQLAlchemy's hook for `encode`."""
        return self.encode(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """SQLAlchemy's hook for `decode`."""
        return self.decode(value)


class JsonText(TypeDecorator[Any]):
    """JSON as text; None is SQL NULL."""

    impl = sa.Text
    cache_ok = True

    @staticmethod
    def encode(value: Any) -> str | None:
        """Compact JSON."""
        return None if value is None else to_json(value).decode()  # a quarter of the time of `json`

    @staticmethod
    def decode(value: str | None) -> Any:
        """The value that the text holds."""
        return None if value is None else json.loads(value)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """SQLAlchemy's hook for `encode`."""
        return self.encode(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """SQLAlchemy's hook for `decode`."""
        return self.decode(value)


def reader_of(kind: type[T], **decoders: Callable[[Any], Any]) -> Callable[[Any], T]:
    """A function that makes a `kind` of a row, whose columns have the names of its fields; `decoders` by field."""
    names = [field.name for field in fields(cast("Any", kind))]
    values_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)
    places = [(names.index(name), decode) for name, decode in decoders.items()]

    def read(row: Any) -> T:
        values = list(values_of(row))
        for place, decode in places:
            values[place] = decode(values[place])
        return kind(*values)

    return read


def recorded_between(
    at: sa.ColumnElement[datetime],
    key: sa.ColumnElement[str],
    prefix: str,
    since: datetime | None,
    until: datetime | None,
    lead_s: float,
) -> list[sa.ColumnElement[bool]]:
    """Conditions for rows of this time; bounds of `key`, their id, keep a walk by ids within it.

    `lead_s`: the most by which ids are ahead of their rows' times, because a clock was set back.
    """
    found: list[sa.ColumnElement[bool]] = []
    if since is not None:
        found += [at >= since, key >= first_id(prefix, max(since, _EPOCH + CLOCK_SLACK) - CLOCK_SLACK)]
    if until is not None:
        slack = CLOCK_SLACK + timedelta(seconds=lead_s)
        found += [at < until, key < first_id(prefix, min(until, _LATEST - slack) + slack)]
    return found
