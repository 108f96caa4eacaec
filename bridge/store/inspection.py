"""Looking at a database without being the daemon: is it sound, and which schema does it hold.

Never creates or changes anything; safe beside a running daemon, because it only reads.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from bridge.domain.errors import DatabaseRefused, NotFound
from bridge.store import migrate
from bridge.store.sqlite import database_file

PROBLEMS_MAX = 20
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found. `schema` None: no tables yet. `pending`: the revisions that `db upgrade` would apply."""

    schema: str | None
    pending: tuple[str, ...]
    problems: tuple[str, ...] = ()
    size_bytes: int | None = None


async def examine(url: URL) -> Examination:
    """Read the whole database once (SQLite) or its schema (PostgreSQL, which checks its own pages).

    NotFound where there is no file, DatabaseRefused for one that is not ours or cannot be read.
    """
    if url.get_backend_name() != "sqlite":
        return await _examine_postgresql(url)
    path = database_file.path_of(url)
    if not path.exists():
        raise NotFound(f"there is no database at {path}; `runbridge serve` or `runbridge db upgrade` makes one")
    database_file.check(path)
    return examine_file(path)


def examine_file(path: Path) -> Examination:
    """Every page, index and reference of a SQLite file; DatabaseRefused where it cannot even be read."""
    try:
        with open_for_reading(path) as connection:
            problems = [row[0] for row in connection.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})")]
            strays = connection.execute("PRAGMA foreign_key_check").fetchmany(PROBLEMS_MAX)
            has_schema = connection.execute("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchone()
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_schema else None
    except sqlite3.Error as error:
        raise DatabaseRefused(f"{path} cannot be read: {error}") from error
    problems = [] if problems == ["ok"] else problems
    problems += [f"a row of {table} refers to a missing row of {parent}" for table, _, parent, _ in strays]
    schema = str(found[0]) if found else None
    return Examination(schema, tuple(migrate.pending(schema)), tuple(problems), path.stat().st_size)


@contextlib.contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write and never checkpoints, so that the daemon's stays the only one that does."""
    uri = f"{path.absolute().as_uri()}?mode=rw"  # rw: a reader of a WAL database needs its -shm file; query_only guards
    timeout_s = database_file.BUSY_TIMEOUT_S
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)) as connection:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        yield connection


async def _examine_postgresql(url: URL) -> Examination:
    shown = url.render_as_string(hide_password=True)
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"), connect_args={"timeout": CONNECT_TIMEOUT_S}, poolclass=sa.NullPool
    )
    try:
        async with engine.connect() as connection:
            schema = await connection.run_sync(migrate.revision_of)
            size_bytes = await connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseRefused(f"cannot use the database {shown}: {str(error).splitlines()[0]}") from error
    finally:
        await engine.dispose()
    return Examination(schema, tuple(migrate.pending(schema)), size_bytes=size_bytes)
