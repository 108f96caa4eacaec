"""Hot statements: SQLAlchemy compiles each once, SQLite's own driver runs it.

Compiling a statement, collecting its parameters and wrapping its rows takes SQLAlchemy longer than SQLite takes to run
it. `execute_many` and `fetch` therefore keep the compiled text of each statement and hand values to the driver; they
convert the values of `Instant` and `JsonText` columns themselves. A transaction without a driver (PostgreSQL, readers)
runs the same statements through SQLAlchemy; one that is sent as a whole (`postgres.one_statement`) collects its writes.
"""

from __future__ import annotations

import functools
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from bridge.store.column_types import Instant, JsonText
from bridge.store.transaction import Tx

Convert = Callable[[Any], Any] | None
Fetched = sa.Select[Any] | sa.TextualSelect | sa.sql.dml.ReturningUpdate[Any]

_DIALECT = sqlite.dialect()


def execute_many(tx: Tx, statement: sa.Insert | sa.Update, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute `statement` for each row. All rows have the same keys; those that name a column set it."""
    if not rows:
        return
    if tx.statement is not None:
        tx.statement.write(statement, rows)
        return
    if tx.driver is None:
        tx.connection.execute(statement, list(rows))
        return
    write = _compile_write(statement, tuple(rows[0]))
    try:
        tx.driver.executemany(write.text, [write.parameters(row) for row in rows])
    except sqlite3.Error as error:
        raise DBAPIError.instance(write.text, None, error, sqlite3.Error) from error


def execute_each(tx: Tx, statement: sa.Update, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Execute `statement`, which changes one row at most, for each row; whether it found what to change. On SQLite."""
    assert tx.driver is not None
    if not rows:
        return []
    write = _compile_write(statement, tuple(rows[0]))
    try:
        return [tx.driver.execute(write.text, write.parameters(row)).rowcount > 0 for row in rows]
    except sqlite3.Error as error:
        raise DBAPIError.instance(write.text, None, error, sqlite3.Error) from error


def fetch(tx: Tx, statement: Fetched, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
    """The rows of `statement`, with their columns as attributes. A list is the value of an expanding parameter."""
    if tx.driver is None:
        return tx.connection.execute(statement, values or {}).all()
    flat: dict[str, Any] = {}
    lengths: list[tuple[str, int | None]] = []
    for name, value in (values or {}).items():
        if isinstance(value, list):
            padded = _padded(value)
            lengths.append((name, len(padded)))
            flat.update((f"{name}_{number}", each) for number, each in enumerate(padded, start=1))
        else:
            lengths.append((name, None))
            flat[name] = value
    query = _compile_query(statement, tuple(lengths))
    try:
        return query.rows(tx.driver.execute(query.text, query.parameters(flat)))
    except sqlite3.Error as error:
        raise DBAPIError.instance(query.text, None, error, sqlite3.Error) from error


def _padded(values: list[Any]) -> list[Any]:
    """`values` with the last one repeated up to a power of two, so that few lengths are compiled."""
    return values + values[-1:] * ((1 << max(0, len(values) - 1).bit_length()) - len(values))


@functools.lru_cache(maxsize=100)
def _compile_write(statement: sa.Insert | sa.Update, keys: tuple[str, ...]) -> _CompiledWrite:
    return _CompiledWrite(statement, keys)


class _CompiledWrite:
    """The text for the driver, and how to make its parameters of a row with these keys."""

    def __init__(self, statement: sa.Insert | sa.Update, keys: tuple[str, ...]) -> None:
        columns = [key for key in keys if key in statement.table.c]
        inline = statement.inline()  # without RETURNING, which executemany does not allow
        compiled = inline.compile(dialect=_DIALECT, column_keys=columns)
        names = compiled.positiontup or []
        self.text = compiled.string
        self._constants = {name: compiled.params[name] for name in names if name not in keys}
        self._values_of = itemgetter(
            *names, names[0]
        )  # one twice, because the getter of a single name returns no tuple
        self._encoders = [
            (place, encode) for place, name in enumerate(names) if (encode := _encoder(compiled.binds[name].type))
        ]

    def parameters(self, row: Mapping[str, Any]) -> list[Any]:
        """The values for the driver, in the order of the text."""
        values: list[Any] = [*self._values_of({**self._constants, **row} if self._constants else row)]
        values.pop()
        for place, encode in self._encoders:
            values[place] = encode(values[place])
        return values


@functools.lru_cache(maxsize=200)
def _compile_query(statement: Fetched, lengths: tuple[tuple[str, int | None], ...]) -> _CompiledQuery:
    return _CompiledQuery(statement, dict(lengths))


class _CompiledQuery:
    """The text for the driver, how to convert its parameters, and how to convert and name its columns."""

    def __init__(self, statement: Fetched, lengths: Mapping[str, int | None]) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        expanded = compiled.construct_expanded_state(
            {name: None if length is None else [None] * length for name, length in lengths.items()}
        )
        origin = {part: name for name, parts in expanded.parameter_expansion.items() for part in parts}
        self.text = expanded.statement
        self._constants = expanded.parameters
        self._parameters = [
            (name, _encoder(compiled.binds[origin.get(name, name)].type)) for name in expanded.positiontup or []
        ]
        self._decoders = {column.name: _decoder(column.type) for column in statement.exported_columns}
        self._row: Any = None
        self._converted: list[tuple[int, Callable[[Any], Any]]] = []

    def parameters(self, values: Mapping[str, Any]) -> list[Any]:
        """The values for the driver, in the order of the text."""
        given = {**self._constants, **values}
        return [given[name] if encode is None else encode(given[name]) for name, encode in self._parameters]

    def rows(self, cursor: sqlite3.Cursor) -> list[Any]:
        """Every row that is left in `cursor`."""
        if self._row is None:
            names = [column[0] for column in cursor.description]
            self._converted = [(at, decode) for at, name in enumerate(names) if (decode := self._decoders[name])]
            self._row = namedtuple("Row", names)  # type: ignore[misc] # noqa: PYI024 - see its import
        return [self._decoded(list(values)) for values in cursor.fetchall()]

    def _decoded(self, values: list[Any]) -> Any:
        for at, decode in self._converted:
            values[at] = decode(values[at])
        return self._row(*values)


def _encoder(kind: sa.types.TypeEngine[Any]) -> Convert:
    """The function that makes a stored value; the driver takes everything but instants and JSON as it is."""
    return kind.encode if isinstance(kind, Instant | JsonText) else None


def _decoder(kind: sa.types.TypeEngine[Any]) -> Convert:
    """The function that makes a Python value of a stored one."""
    if isinstance(kind, Instant | JsonText):
        return kind.decode
    return _to_bool if isinstance(kind, sa.Boolean) else None


def _to_bool(value: int | None) -> bool | None:
    return None if value is None else bool(value)
