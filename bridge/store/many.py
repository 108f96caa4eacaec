"""One statement for many rows: made ready once for each engine, not again for every row.

SQLAlchemy puts each row's parameters together anew, which took longer than SQLite took to store them (a sixth of all
that recording cost). Here that is done once per statement; the values still go through their columns' types.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class _Ready:
    """The text for the driver, and for each of its parameters the name and what makes of a value what is stored."""

    text: str
    parameters: tuple[tuple[str, Callable[[Any], Any] | None], ...]


def execute_many(tx: Tx, statement: sa.Insert | sa.Update, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute `statement`, one of a module's own, for each of the rows, all of which have the same keys."""
    if not rows:
        return
    ready = _make_ready(statement, tx.connection.dialect, tuple(rows[0]))
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
def _make_ready(statement: sa.Insert | sa.Update, dialect: Dialect, keys: tuple[str, ...]) -> _Ready:
    if isinstance(statement, sa.Insert):
        compiled = statement.inline().compile(dialect=dialect, column_keys=list(keys))
    else:
        compiled = statement.compile(dialect=dialect)
    return _Ready(compiled.string, tuple(_parameter(compiled, name, keys) for name in compiled.positiontup or ()))


def _parameter(compiled: SQLCompiler, name: str, keys: Container[str]) -> tuple[str, Callable[[Any], Any] | None]:
    """A row's own value goes through its type; what the statement itself says is the same for all."""
    process = compiled.binds[name].type.dialect_impl(compiled.dialect).bind_processor(compiled.dialect)
    if name in keys:
        return name, process
    constant = compiled.params[name]
    stored = constant if process is None else process(constant)
    return name, lambda _: stored
