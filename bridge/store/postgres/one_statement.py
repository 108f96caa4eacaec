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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
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
        values = [value for _, given in self._checks for value in given]
        parts = []
        for statement, rows in self._writes:
            write = _compile(statement, tuple(rows[0]))
            arrays, given = write.parameters(rows)
            values += given
            parts.append((write, arrays))
        return _text(tuple(check for check, _ in self._checks), tuple(parts)), values


@functools.lru_cache(maxsize=200)
def _text(checks: tuple[Check, ...], writes: tuple[tuple[_CompiledWrite, frozenset[int]], ...]) -> str:
    count, parts, before = 0, [], "TRUE"
    for number, check in enumerate(checks):
        named = {name: f"${count + place}::{kind}" for place, (name, kind) in enumerate(check.types, start=1)}
        count += len(named)
        parts.append(f"check_{number} (holds) AS MATERIALIZED ({check.text.format(before=before, **named)})")
        before = f"(SELECT holds FROM check_{number})"  # noqa: S608 - no value is in the text, here and below
    parts.append(f"checked (holds) AS MATERIALIZED (SELECT COALESCE({before}, FALSE))")
    for number, (write, arrays) in enumerate(writes):
        parts.append(f"write_{number} AS ({write.text(count, arrays)})")
        count += len(write.types)
    return f"WITH {', '.join(parts)} SELECT holds FROM checked"  # noqa: S608


@functools.cache
def _dialect() -> sa.Dialect:
    return postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]


@functools.lru_cache(maxsize=200)
def _compile(statement: Write, keys: tuple[str, ...]) -> _CompiledWrite:
    return _CompiledWrite(statement, keys)


class _CompiledWrite:
    """An INSERT or UPDATE of any number of rows.

    A value that is the same in all rows is one parameter, others are arrays: the driver takes longer for an array than
    for all else. A parameter that was an array once stays one, except for a single row, so that there are few texts.
    """

    def __init__(self, statement: Write, keys: tuple[str, ...]) -> None:
        columns = [key for key in keys if key in statement.table.c]
        compiled = statement.inline().compile(dialect=_dialect(), column_keys=columns)
        binds = {name: compiled.binds[name].type for name in _BIND.findall(compiled.string)}
        self._constants = {name: compiled.params[name] for name in binds if name not in keys}
        self._names = [*binds]
        self._values_of = itemgetter(*binds, self._names[0])  # one twice, because the getter of one returns no tuple
        self._encoders = [
            (place, kind.encode) for place, kind in enumerate(binds.values()) if isinstance(kind, Instant | JsonText)
        ]
        self._string = compiled.string
        self._arrays = frozenset({0})  # never empty, because its length is the number of rows
        self.types = [kind.compile(dialect=_dialect()) for kind in binds.values()]
        where = _BIND.findall(compiled.string.partition(" WHERE ")[2])
        self.keys = tuple(name for name in where if name in keys)
        """The values that choose the row of an UPDATE."""

    def text(self, before: int, arrays: Collection[int]) -> str:
        """The statement, where `before` parameters precede its own, of which those at the places `arrays` are arrays."""
        given = {name: f"${before + place + 1}::{self.types[place]}" for place, name in enumerate(self._names)}
        rows = "WHERE (SELECT holds FROM checked)"
        if arrays:
            names = [self._names[place] for place in sorted(arrays)]
            unnested, columns = (
                ", ".join(f"{given[name]}[]" for name in names),
                ", ".join(f'"{name}"' for name in names),
            )
            given |= {name: f'g."{name}"' for name in names}
            rows = f"FROM unnest({unnested}) AS g({columns}) {rows}"
        string = _BIND.sub(lambda found: given[found[1]], self._string).replace("%%", "%")
        head, insert, values = string.partition(" VALUES (")
        if insert:
            return f"{head} SELECT {values.removesuffix(')')} {rows}"
        head, _, condition = string.partition(" WHERE ")
        return f"{head} {rows} AND {condition}"

    def parameters(self, rows: Sequence[Mapping[str, Any]]) -> tuple[frozenset[int], list[Any]]:
        """The places of the parameters that are arrays, and the values for the driver."""
        made = [self._encoded(row) for row in rows]
        if len(made) == 1:
            return frozenset(), made[0]
        columns = [*zip(*made, strict=True)]
        self._arrays |= {
            place
            for place, column in enumerate(columns)
            if place not in self._arrays and column.count(column[0]) < len(column)
        }
        return self._arrays, [column if place in self._arrays else column[0] for place, column in enumerate(columns)]

    def _encoded(self, row: Mapping[str, Any]) -> list[Any]:
        values: list[Any] = [*self._values_of({**self._constants, **row} if self._constants else row)]
        values.pop()
        for place, encode in self._encoders:
            values[place] = encode(values[place])
        return values
