"""A transaction as one statement: what it would read is taken for granted and checked, what it writes is collected.

Each statement of a transaction is a round trip, and its beginning and commit are two more. Hot work therefore runs
without a connection first. Instead of reading it takes the usual answer for granted and adds a `Check` of it, and its
writes are collected. All of it is one statement for the server, so one round trip and one commit, that writes only if
every check holds. Work that needs to read raises `NeedsTransaction`; then, or if a check fails, nothing has been
written, and the work runs again as an ordinary transaction.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from bridge.store.column_types import Instant, JsonText
from bridge.store.postgres import dialect as postgresql

Write = sa.Insert | sa.Update
_BIND: Final = re.compile(r"%\((\w+)\)s")


class NeedsTransaction(Exception):
    """The work reads something, or writes a row twice: it must run as an ordinary transaction."""


class NoConnection:
    """Stands for the connection while work runs for `OneStatement`."""

    def __getattr__(self, name: str) -> Any:
        raise NeedsTransaction(name)


@dataclass(frozen=True)
class Check:
    """A query of one boolean, true if what was taken for granted holds until the commit.

    `text` names its values as `{name}`, each of a type in `types`, and must be true only if `{before}` is: checks run in
    the order in which they are added, so that locks are taken in that order.
    """

    text: str
    types: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class OneStatement:
    """The checks and writes of one piece of work."""

    _checks: list[tuple[Check, tuple[Any, ...]]] = field(default_factory=list)
    _writes: list[tuple[Write, Sequence[Mapping[str, Any]]]] = field(default_factory=list)
    _written: set[tuple[str, Any]] = field(default_factory=set)
    """Each row that is updated, by table and key: a statement must not change a row twice."""

    def check(self, check: Check, *values: Any) -> None:
        """Write only if this holds; `values` are in the order of its types."""
        if (check, values) not in self._checks:
            self._checks.append((check, values))

    def write(self, statement: Write, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute `statement` for each row, as `execute_many`."""
        table = str(statement.table)
        if isinstance(statement, sa.Update):
            keys = _compile(statement, tuple(rows[0])).keys
            written = {(table, tuple(row[key] for key in keys)) for row in rows}
            if len(written) < len(rows) or written & self._written or self._inserts(table):
                raise NeedsTransaction(table)
            self._written |= written
        self._writes.append((statement, rows))

    def _inserts(self, table: str) -> bool:
        return any(isinstance(write, sa.Insert) and str(write.table) == table for write, _ in self._writes)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self._checks or self._writes)

    def compiled(self) -> tuple[str, list[Any]]:
        """The text and its parameters; it answers whether every check held."""
        parts = tuple((statement, tuple(rows[0])) for statement, rows in self._writes)
        values = [value for _, given in self._checks for value in given]
        for (statement, rows), (_, keys) in zip(self._writes, parts, strict=True):
            values += _compile(statement, keys).arrays(rows)
        return _text(tuple(check for check, _ in self._checks), parts), values


@functools.lru_cache(maxsize=200)
def _text(checks: tuple[Check, ...], writes: tuple[tuple[Write, tuple[str, ...]], ...]) -> str:
    count, parts, before = 0, [], "TRUE"
    for number, check in enumerate(checks):
        named = {name: f"${count + place}::{kind}" for place, (name, kind) in enumerate(check.types, start=1)}
        count += len(named)
        parts.append(f"check_{number} (holds) AS MATERIALIZED ({check.text.format(before=before, **named)})")
        before = f"(SELECT holds FROM check_{number})"  # noqa: S608 - no value is in the text, here and below
    parts.append(f"checked (holds) AS MATERIALIZED (SELECT COALESCE({before}, FALSE))")
    for number, (statement, keys) in enumerate(writes):
        write = _compile(statement, keys)
        parts.append(f"write_{number} AS ({write.text(count)})")
        count += len(write.types)
    return f"WITH {', '.join(parts)} SELECT holds FROM checked"  # noqa: S608


@functools.cache
def _dialect() -> sa.Dialect:
    return postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]


@functools.lru_cache(maxsize=200)
def _compile(statement: Write, keys: tuple[str, ...]) -> _CompiledWrite:
    return _CompiledWrite(statement, keys)


class _CompiledWrite:
    """An INSERT or UPDATE of any number of rows, whose values are arrays."""

    def __init__(self, statement: Write, keys: tuple[str, ...]) -> None:
        columns = [key for key in keys if key in statement.table.c]
        compiled = statement.inline().compile(dialect=_dialect(), column_keys=columns)
        self._binds = {name: compiled.binds[name].type for name in _BIND.findall(compiled.string)}
        self._constants = {name: compiled.params[name] for name in self._binds if name not in keys}
        self._string = _BIND.sub(r'g."\1"', compiled.string).replace("%%", "%")
        self.types = [f"{kind.compile(dialect=_dialect())}[]" for kind in self._binds.values()]
        where = _BIND.findall(compiled.string.partition(" WHERE ")[2])
        self.keys = tuple(name for name in where if name in keys)
        """The values that choose the row of an UPDATE."""

    def text(self, before: int) -> str:
        """The statement, where `before` parameters precede its own."""
        arrays = ", ".join(f"${number}::{kind}" for number, kind in enumerate(self.types, start=before + 1))
        names = ", ".join(f'"{name}"' for name in self._binds)
        rows = f"FROM unnest({arrays}) AS g({names}) WHERE (SELECT holds FROM checked)"  # noqa: S608
        head, insert, values = self._string.partition(" VALUES (")
        if insert:
            return f"{head} SELECT {values.removesuffix(')')} {rows}"
        head, _, condition = self._string.partition(" WHERE ")
        return f"{head} {rows} AND {condition}"

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """The values for the driver, one list for each parameter."""
        found = []
        for name, kind in self._binds.items():
            constant = [self._constants[name]] * len(rows) if name in self._constants else None
            values = constant or [row[name] for row in rows]
            found.append([*map(kind.encode, values)] if isinstance(kind, Instant | JsonText) else values)
        return found
