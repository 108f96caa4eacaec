"""Whether a PostgreSQL database can be used: what stands before the server, its encoding, and our rights."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import asyncpg
import sqlalchemy as sa

from bridge.domain.database_url import PostgresTarget
from bridge.domain.errors import DatabaseRefused
from bridge.store import migrate
from bridge.store.tables import metadata

_ROUNDS: Final = 10
_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


async def refuse_transaction_pooling(target: PostgresTarget) -> None:
    """Raise DatabaseRefused if the transactions of one connection run on changing connections of the server.

    Behind such a pooler (pgbouncer with `pool_mode = transaction`) prepared statements, settings and LISTEN are lost
    between transactions. It shows when two open connections share a backend, or one of them changes it.
    """
    async with contextlib.AsyncExitStack() as stack:
        pair = []
        for _ in range(2):
            connection = await asyncpg.connect(
                target.dsn,
                timeout=target.connect_timeout_s,
                server_settings=target.server_settings,
                statement_cache_size=0,  # which such a pooler would confuse
            )
            stack.callback(connection.terminate)
            pair.append(connection)
        backends: list[set[int]] = [set(), set()]
        for _ in range(_ROUNDS):
            for connection, seen in zip(pair, backends, strict=True):
                async with connection.transaction():  # a role may have a limit of a millisecond, which ends with it
                    await connection.execute("SET LOCAL statement_timeout = 0")
                    seen.add(await connection.fetchval("SELECT pg_backend_pid()"))
    if max(map(len, backends)) > 1 or backends[0] & backends[1]:
        raise DatabaseRefused(
            "a connection pooler in transaction mode (pgbouncer?) stands before PostgreSQL; "
            "name the server itself in [database] url, or set pool_mode = session for this database"
        )


def missing_file(url: sa.URL) -> str | None:
    """The first file of the URL's parameters that does not exist, which the driver does not name."""
    names = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
    missing = [name for name in names if name in url.query and not Path(str(url.query[name])).expanduser().exists()]
    return f"there is no file {url.query[missing[0]]}; correct {missing[0]}" if missing else None


def prepare(connection: sa.Connection) -> None:
    """Upgrade the database; DatabaseRefused, with one sentence, if it or our role does not suit."""
    with connection.begin():
        _check_database(connection)
        if migrate.revision_of(connection) != migrate.HEAD:
            _check_may_create(connection)
    migrate.upgrade(connection)
    with connection.begin():
        _check_rights(connection)


def _check_database(connection: sa.Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise DatabaseRefused(
            f"the database is encoded in {encoding}, which does not hold every character; "
            "create one with TEMPLATE template0 ENCODING 'UTF8'"
        )
    if connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on":
        raise DatabaseRefused(
            "the database is read-only for us: name the primary instead of a standby, "
            "or set default_transaction_read_only = off for the role and the database"
        )


def _check_may_create(connection: sa.Connection) -> None:
    query = "SELECT current_user, current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
    role, schema, granted = connection.exec_driver_sql(query).one()
    if not schema:
        raise DatabaseRefused(f"the search_path of the role {role} names no schema that exists; create one for it")
    if not granted:
        raise DatabaseRefused(
            f"the role {role} may not create tables in the schema {schema}; "
            f"GRANT CREATE ON SCHEMA {schema} TO {role}, or give it a schema of its own"
        )


def _check_rights(connection: sa.Connection) -> None:
    query = sa.text(
        "SELECT name, granted FROM unnest(CAST(:names AS text[])) AS t(name), unnest(CAST(:rights AS text[])) AS g(granted) "
        "WHERE NOT has_table_privilege(to_regclass(name), granted) ORDER BY name, granted"
    )
    missing = connection.execute(query, {"names": sorted(metadata.tables), "rights": list(_RIGHTS)}).first()
    if missing is not None:
        role = connection.exec_driver_sql("SELECT current_user").scalar()
        raise DatabaseRefused(
            f"the role {role} has no right to {missing.granted} in the table {missing.name}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA … TO {role}, or use the tables' owner"
        )
