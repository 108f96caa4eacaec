"""Statements of a module's own, made ready once for each engine: not again for every row, nor every time.

SQLAlchemy puts each row's parameters together anew, and wraps every result, which took longer than SQLite took to do
what they ask. Here that is done once per statement; values still go through their columns' types, both ways. Where
SQLite is written the text goes to the driver itself; everywhere else the statement goes its usual way.
"""

from __future__ import annotations

import collections
import functools
import sqlite3
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from bridge.store.transaction import Tx

Process = Callable[[Any], Any] | None
_make_row: Any = collections.namedtuple  # noqa: PYI024 - its names are the statement's


@dataclass(frozen=True, slots=True)
class _ReadyToWrite:
    """The text for the driver, and for each of its parameters the name and what makes of a value what is stored."""

    text: str
    parameters: tuple[tuple[str, Process], ...]


def execute_many(tx: Tx, statement: sa.Insert | sa.Update, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute `statement` for each of the rows, all of which have the same keys."""
    if not rows:
        return
    ready = _make_ready_to_write(statement, tx.connection.dialect, tuple(rows[0]))
    values = [
        tuple([row[name] if process is None else process(row.get(name)) for name, process in ready.parameters])
        for row in rows
    ]
    if tx.driver is None:
        tx.connection.exec_driver_sql(ready.text, values)
        return
    try:
        tx.driver.executemany(ready.text, values)
    except sqlite3.Error as error:
        raise DBAPIError.instance(ready.text, None, error, sqlite3.Error) from error


@functools.lru_cache(maxsize=100)
def _make_ready_to_write(statement: sa.Insert | sa.Update, dialect: Dialect, keys: tuple[str, ...]) -> _ReadyToWrite:
    if isinstance(statement, sa.Insert):
        compiled = statement.inline().compile(dialect=dialect, column_keys=list(keys))
    else:
        compiled = statement.compile(dialect=dialect)
    return _ReadyToWrite(
        compiled.string, tuple(_parameter(compiled, name, keys) for name in compiled.positiontup or ())
    )


def _parameter(compiled: SQLCompiler, name: str, keys: Container[str]) -> tuple[str, Process]:
    """A row's own value goes through its type; what the statement itself says is the same for all."""
    process = _process(compiled, name)
    if name in keys:
        return name, process
    constant = compiled.params[name]
    stored = constant if process is None else process(constant)
    return name, lambda _: stored


def _process(compiled: SQLCompiler, name: str) -> Process:
    """What makes of a value what is stored; the driver takes True for 1 by itself."""
    kind = compiled.binds[name].type
    if isinstance(kind, sa.Boolean) and compiled.dialect.name == "sqlite":
        return None
    process: Process = kind.dialect_impl(compiled.dialect).bind_processor(compiled.dialect)
    return process


Fetched = sa.Select[Any] | sa.TextualSelect | sa.sql.dml.ReturningUpdate[Any]


class _Place:
    """Stands for a given value, or one of a given list, while a statement is made ready."""

    def __init__(self, name: str, number: int | None = None) -> None:
        self.name = name
        self.number = number

    def of(self, given: Mapping[str, Any]) -> Any:
        """What is to stand here."""
        value = given[self.name]
        return value if self.number is None else value[self.number]


class _ReadyToFetch:
    """The text for the driver, its parameters, and what the columns of its rows are called and mean."""

    def __init__(self, statement: Fetched, dialect: Dialect, sizes: Mapping[str, int | None]) -> None:
        places: dict[str, Any] = {
            name: _Place(name) if size is None else [_Place(name, number) for number in range(size)]
            for name, size in sizes.items()
        }
        compiled = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(places)
        self.text: str = state.statement
        names = state.positiontup or ()  # those of an expanded list are none of the statement's own
        self._parameters = [
            (state.parameters[name], _process(compiled, name) if name in compiled.binds else state.processors.get(name))
            for name in names
        ]
        types = {column.name: column.type for column in statement.exported_columns}
        self._processes = {
            name: kind.dialect_impl(dialect).result_processor(dialect, None) for name, kind in types.items()
        }
        self._row: Any = None
        self._wanted: list[tuple[int, Callable[[Any], Any]]] = []

    def values(self, given: Mapping[str, Any]) -> list[Any]:
        """The parameters for the driver."""
        plain = [(each.of(given) if isinstance(each, _Place) else each, p) for each, p in self._parameters]
        return [value if process is None else process(value) for value, process in plain]

    def rows(self, cursor: sqlite3.Cursor) -> list[Any]:
        """What came, by name."""
        if self._row is None:
            names = [column[0] for column in cursor.description]
            self._wanted = [(at, process) for at, name in enumerate(names) if (process := self._processes[name])]
            self._row = _make_row("Row", names)
        return [self._made(list(values)) for values in cursor.fetchall()]

    def _made(self, values: list[Any]) -> Any:
        for at, process in self._wanted:
            values[at] = process(values[at])
        return self._row(*values)


def fetch(tx: Tx, statement: Fetched, given: Mapping[str, Any] | None = None) -> Sequence[Any]:
    """The rows that `statement` answers with; their columns are attributes. Lists are for parameters that expand."""
    if tx.driver is None:
        return tx.connection.execute(statement, given or {}).all()
    given = {name: _padded(value) if isinstance(value, list) else value for name, value in (given or {}).items()}
    sizes = tuple((name, len(value) if isinstance(value, list) else None) for name, value in given.items())
    ready = _make_ready_to_fetch(statement, tx.connection.dialect, sizes)
    try:
        return ready.rows(tx.driver.execute(ready.text, ready.values(given)))
    except sqlite3.Error as error:
        raise DBAPIError.instance(ready.text, None, error, sqlite3.Error) from error


def _padded(values: list[Any]) -> list[Any]:
    """A power of two of them, the last one repeated: a list of another length is another text to be made ready."""
    return values + values[-1:] * ((1 << max(0, len(values) - 1).bit_length()) - len(values))


@functools.lru_cache(maxsize=200)
def _make_ready_to_fetch(
    statement: Fetched, dialect: Dialect, sizes: tuple[tuple[str, int | None], ...]
) -> _ReadyToFetch:
    return _ReadyToFetch(statement, dialect, dict(sizes))
