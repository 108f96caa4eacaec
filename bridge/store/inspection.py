"""Inspection of a database: is it sound, which schema does it hold, how large is it.

`inspect_database` needs no daemon, is safe beside a running one, and creates and changes nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from bridge.domain.errors import DatabaseRefused, NotFound
from bridge.store import migrate
from bridge.store.sqlite import database_file
from bridge.store.tables import metadata
from bridge.store.transaction import Tx

PROBLEMS_MAX = 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """The findings. `schema` None: no tables yet. `pending`: the revisions that `db upgrade` would apply."""

    schema: str | None
    pending: tuple[str, ...]
    problems: tuple[str, ...] = ()
    size_bytes: int | None = None


async def inspect_database(url: URL) -> Inspection:
    """Read the whole database once (SQLite) or its schema (PostgreSQL, which checks its own pages).

    NotFound if there is no file, DatabaseRefused if it belongs to another program or cannot be read.
    """
    if url.get_backend_name() != "sqlite":
        return await _inspect_postgres(url)
    path = database_file.path_of(url)
    if not path.exists():
        raise NotFound(f"there is no database at {path}; `runbridge serve` or `runbridge db upgrade` makes one")
    database_file.check(path)
    return inspect_file(path)


def inspect_file(path: Path) -> Inspection:
    """Check every page, index and reference of a SQLite file. DatabaseRefused if it cannot be read at all."""
    try:
        with open_for_reading(path) as connection:
            problems = [row[0] for row in connection.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})")]
            dangling = connection.execute("PRAGMA foreign_key_check").fetchmany(PROBLEMS_MAX)
            has_schema = connection.execute("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchone()
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_schema else None
    except sqlite3.Error as error:
        raise DatabaseRefused(f"{path} cannot be read: {error}") from error
    problems = [] if problems == ["ok"] else problems
    problems += [f"a row of {table} refers to a missing row of {parent}" for table, _, parent, _ in dangling]
    schema = str(found[0]) if found else None
    return Inspection(schema, tuple(migrate.pending(schema)), tuple(problems), path.stat().st_size)


@contextlib.contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write and never checkpoints; only the daemon's does."""
    uri = f"{path.absolute().as_uri()}?mode=rw"  # rw: a reader of a WAL database needs its -shm file; query_only guards
    timeout_s = database_file.BUSY_TIMEOUT_S
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)) as connection:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        yield connection


async def _inspect_postgres(url: URL) -> Inspection:
    shown = url.render_as_string(hide_password=True)
    from bridge.store.postgres.engine import PostgresError, open_unlimited_engine, reason_of

    engine = open_unlimited_engine(url)
    try:
        async with engine.connect() as connection:
            schema = await connection.run_sync(migrate.revision_of)
            size_bytes = await connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    except (SQLAlchemyError, PostgresError, OSError) as error:
        raise DatabaseRefused(f"cannot use the database {shown}: {reason_of(error)}") from error
    finally:
        await engine.dispose()
    return Inspection(schema, tuple(migrate.pending(schema)), size_bytes=size_bytes)


# -- size

_INCREMENTAL: Final = 2
_SAMPLED_PAGES: Final = 1000  # of each table; enough for an estimate within some percent
_PAGE_BYTES: Final = 8192
_OVERHEAD: Final = 1.5  # of a row's bytes: its header, its share of indexes and of pages that are not quite full


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes in bytes. `free` is the part of `total` that holds nothing, `disk_free` the room on its disk (SQLite only)."""

    total: int
    free: int = 0
    wal: int = 0
    disk_free: int | None = None

    @property
    def used(self) -> int:
        """The bytes that hold something."""
        return self.total - self.free


def measure_size(tx: Tx) -> Size:
    """The present size; cheap enough for every scrape."""
    if tx.is_postgresql:
        return Size(tx.connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
    page_bytes = _pragma(tx, "page_size")
    file = Path(tx.connection.exec_driver_sql("PRAGMA database_list").one()[2])
    wal = file.with_name(file.name + "-wal")
    wal_bytes = wal.stat().st_size if wal.exists() else 0
    disk_free = shutil.disk_usage(file.parent).free if file.parent.exists() else None
    total, free = _pragma(tx, "page_count") * page_bytes, _pragma(tx, "freelist_count") * page_bytes
    return Size(total, free, wal_bytes, disk_free)


def measure_used_bytes(tx: Tx, limit: int) -> int:
    """Bytes in use, exact on SQLite; on PostgreSQL an estimate where the database is larger than `limit`.

    PostgreSQL keeps the space of deleted rows for new ones, so its size says nothing once the limit was reached.
    """
    size = measure_size(tx)
    if not tx.is_postgresql or size.total <= limit:
        return size.used
    return min(size.total, sum(_estimate(tx, table) for table in metadata.tables.values()))


def _estimate(tx: Tx, table: sa.Table) -> int:
    """Bytes of a table's rows, estimated from a sample of its pages."""
    name = table.name
    heap = tx.connection.scalar(sa.text(f"SELECT pg_relation_size('{name}')")) or 0
    percent = min(100.0, 100.0 * _SAMPLED_PAGES / max(1, heap // _PAGE_BYTES))
    sampled = f"SELECT sum(pg_column_size({name}.*)) FROM {name} TABLESAMPLE SYSTEM ({percent:.4f})"  # noqa: S608 - our names
    return int((tx.connection.scalar(sa.text(sampled)) or 0) * 100 / percent * _OVERHEAD)


def release_free_pages(tx: Tx, pages: int) -> int:
    """Return up to `pages` free pages of a SQLite file to the disk. The answer is how many."""
    if tx.is_postgresql or _pragma(tx, "auto_vacuum") != _INCREMENTAL:
        return 0
    before = _pragma(tx, "freelist_count")
    for _ in range(min(pages, before)):  # given a number, the statement frees one page a step, and the driver makes one
        tx.connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return before - _pragma(tx, "freelist_count")


def _pragma(tx: Tx, name: str) -> int:
    return int(tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
