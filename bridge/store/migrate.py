"""Upgrade a database to this version's schema, and refuse one that is newer.

Alembic runs the steps and is imported only when there are some. A new SQLite file gets the tables of the code without
them: Alembic would take a tenth of the daemon's memory from then on. On PostgreSQL an advisory lock keeps two starting nodes
from taking one step at once; on SQLite the daemon's lock file does.

Nodes of the old version keep working while those of the new one start, so a step only adds. New columns are nullable or
have a server default, because the old version inserts without them. What is no longer used is dropped, renamed or made
stricter one release later. Rows keep the meaning that the old version gives them. Statements name their columns, so
that added ones do no harm. A node that starts with the old version after an upgrade is refused.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from bridge.domain.errors import DatabaseRefused
from bridge.store.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

_STEPS = sorted(step.name[:4] for step in (Path(__file__).parent / "migrations" / "versions").glob("[0-9]*.py"))
HEAD = _STEPS[-1]
OWN_VERSION_TABLE = "runbridge_schema_version"
"""Used in PostgreSQL databases, where another application may have Alembic's usual table."""
_USUAL_VERSION_TABLE = "alembic_version"
_LOCK = 0x72756E62  # any number, the same in every node


def revision_of(connection: sa.Connection) -> str | None:
    """The schema revision of this database; None if it has no tables of ours."""
    names = _table_names(connection)
    table = _version_table(connection, names)
    if table not in names:
        return None
    revision = connection.execute(sa.text(f"SELECT version_num FROM {table}")).scalar()  # noqa: S608 - our names
    return None if revision is None else str(revision)


def _table_names(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names())


def _version_table(connection: sa.Connection, names: Container[str]) -> str:
    """Alembic's usual table on SQLite, and where a version before OWN_VERSION_TABLE made our tables."""
    if connection.dialect.name != "postgresql":
        return _USUAL_VERSION_TABLE
    is_older = OWN_VERSION_TABLE not in names and all(name in names for name in (*_FIRST_TABLES, _USUAL_VERSION_TABLE))
    return _USUAL_VERSION_TABLE if is_older else OWN_VERSION_TABLE


_FIRST_TABLES = ("runs", "transitions", "endpoint_secrets", "idempotency_keys", "sojourns", "watermarks")


def upgrade(connection: sa.Connection) -> None:
    """Upgrade the schema to HEAD.

    On PostgreSQL each step is a transaction of its own: what one locks is free again while the next builds an index, and
    a start that is killed in between leaves a schema from which the next one goes on. On SQLite, where no one waits, all
    of them are one, so that a start that fails leaves the schema as it was.
    """
    while not _apply(connection):
        pass


def _apply(connection: sa.Connection) -> bool:
    """Apply the next step, on SQLite all of them; whether the schema is at HEAD then."""
    is_postgresql = connection.dialect.name == "postgresql"
    with connection.begin():
        if is_postgresql:
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        before = revision_of(connection)
        if before == HEAD:
            return True
        names = _table_names(connection)
        if not names and not is_postgresql:
            _create(connection)
            return True
        if before is None and is_postgresql and (foreign := names & metadata.tables.keys()):
            raise DatabaseRefused(
                f"this PostgreSQL database has tables that are not ours ({', '.join(sorted(foreign))}); use an empty "
                "database, or a schema of its own for the role (ALTER ROLE … SET search_path)"
            )
        steps = pending(before)  # refuses a newer one
        from alembic import command

        config = alembic_config()
        config.attributes["connection"] = connection
        config.attributes["version_table"] = _version_table(connection, names)
        command.upgrade(config, steps[0] if is_postgresql else HEAD)
        return False


def _create(connection: sa.Connection) -> None:
    metadata.create_all(connection, checkfirst=False)
    column = sa.Column("version_num", sa.String(32), nullable=False)
    key = sa.PrimaryKeyConstraint("version_num", name=f"{_USUAL_VERSION_TABLE}_pkc")
    version = sa.Table(_USUAL_VERSION_TABLE, sa.MetaData(), column, key)
    version.create(connection, checkfirst=False)
    connection.execute(sa.insert(version).values(version_num=HEAD))


def pending(before: str | None) -> list[str]:
    """Revisions still to be applied, oldest first. DatabaseRefused if the database is newer than the code."""
    if before is not None and before not in _STEPS:
        raise DatabaseRefused(
            f"the database has schema {before}, this version of runbridge knows up to {HEAD}; "
            "install the newer runbridge again, or restore a backup made before its upgrade"
        )
    return _STEPS[_STEPS.index(before) + 1 :] if before else _STEPS


def alembic_config() -> Config:
    """Alembic's settings: the scripts beside this file, without an ini file or logging of its own."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
