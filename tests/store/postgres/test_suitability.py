"""PostgreSQL as people have it: poolers, other encodings and defaults, few rights, other applications' tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from bridge.domain.clock import SystemClock
from bridge.domain.errors import DatabaseRefused
from bridge.store import migrate, runs
from bridge.store.database import Database
from tests.support.pooler import pgbouncer
from tests.support.postgres import Postgres
from tests.support.watching import connected, register


def name_of(url: str) -> str:
    return url.rsplit("/", 1)[1].partition("?")[0]


@pytest.fixture
def role(postgres: Postgres, postgresql_url: str) -> Iterator[str]:
    """A role without rights of its own; its URL."""
    postgres.execute("CREATE ROLE clerk LOGIN")
    yield postgresql_url.replace("//postgres@", "//clerk@")
    postgres.execute("DROP OWNED BY clerk", name_of(postgresql_url))
    postgres.execute("DROP OWNED BY clerk; DROP ROLE clerk")


async def refusal(url: str) -> str:
    database = Database(url, SystemClock())
    with pytest.raises(DatabaseRefused) as caught:
        await database.open()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_pooler_in_transaction_mode_is_refused(postgresql_url: str) -> None:
    """It mixed up prepared statements: of forty registrations five were a 201 and the others a 500."""
    async with pgbouncer(postgresql_url, mode="transaction") as url:
        assert "pool_mode = session" in await refusal(url)


async def test_a_certificate_file_that_is_not_there_is_named(postgresql_url: str) -> None:
    said = await refusal(f"{postgresql_url}?sslmode=verify-full&sslrootcert=/missing/ca.pem")
    assert said.endswith("there is no file /missing/ca.pem; correct sslrootcert")


async def test_a_pooler_in_session_mode_is_used(postgresql_url: str) -> None:
    async with pgbouncer(postgresql_url, mode="session") as url, connected(url) as database:
        run = await register(database)
        assert await database.read(lambda tx: runs.get_run(tx, run.id)) == run


async def test_a_database_of_another_encoding_is_refused(postgres: Postgres) -> None:
    postgres.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    url = postgres.url("latin")
    try:
        said = await refusal(url)
    finally:
        postgres.drop_database(url)
    assert "LATIN1" in said
    assert "ENCODING 'UTF8'" in said


async def test_the_defaults_of_a_role_or_database_do_not_hold(postgres: Postgres, postgresql_url: str) -> None:
    name = name_of(postgresql_url)
    for setting in ("default_transaction_isolation = 'serializable'", "statement_timeout = 900", "lock_timeout = 900"):
        postgres.execute(f"ALTER DATABASE {name} SET {setting}")
    async with connected(postgresql_url) as database:
        shown = await database.write(
            lambda tx: [
                tx.connection.execute(sa.text(f"SHOW {setting}")).scalar()
                for setting in ("transaction_isolation", "statement_timeout", "lock_timeout")
            ]
        )
    assert shown == ["read committed", "1min", "0"]  # ours, as the tests have it


async def test_a_database_that_ends_each_statement_after_a_millisecond_is_used(
    postgres: Postgres, postgresql_url: str
) -> None:
    """It was refused in the driver's words: looking for a pooler took longer than that."""
    postgres.execute(f"ALTER DATABASE {name_of(postgresql_url)} SET statement_timeout = 1")
    async with connected(postgresql_url) as database:
        assert await register(database)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=prefer",
        "application_name=bridge-1",
        "connect_timeout=3",
        "options=-c%20work_mem%3D8MB",
        "channel_binding=prefer",
        "target_session_attrs=read-write&gssencmode=disable&client_encoding=UTF8",
    ],
)
async def test_parameters_of_libpq_are_translated(postgresql_url: str, query: str) -> None:
    async with connected(f"{postgresql_url}?{query}") as database:
        shown = await database.read(
            lambda tx: [
                tx.connection.execute(sa.text(f"SHOW {name}")).scalar() for name in ("application_name", "work_mem")
            ]
        )
    assert shown == [
        "bridge-1" if "application_name" in query else "runbridge",
        "8MB" if "work_mem" in query else "4MB",
    ]


async def test_a_server_without_tls_is_refused_where_tls_is_required(postgresql_url: str) -> None:
    assert "offers no TLS, which sslmode asks for" in await refusal(f"{postgresql_url}?sslmode=require")


async def test_a_parameter_that_cannot_be_kept_is_refused_by_its_name(postgresql_url: str) -> None:
    assert "channel_binding=require" in await refusal(f"{postgresql_url}?channel_binding=require")


async def test_a_role_that_may_not_create_tables_is_refused(role: str) -> None:
    assert "GRANT CREATE ON SCHEMA public TO clerk" in await refusal(role)


async def test_a_role_that_may_only_read_is_refused(postgres: Postgres, postgresql_url: str, role: str) -> None:
    async with connected(postgresql_url):
        postgres.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO clerk", name_of(postgresql_url))
    assert "the role clerk has no right to DELETE" in await refusal(role)


async def test_a_read_only_default_is_refused(postgres: Postgres, postgresql_url: str) -> None:
    postgres.execute(f"ALTER DATABASE {name_of(postgresql_url)} SET default_transaction_read_only = on")
    assert "read-only" in await refusal(postgresql_url)


async def test_another_applications_alembic_version_is_left_alone(postgres: Postgres, postgresql_url: str) -> None:
    name = name_of(postgresql_url)
    postgres.execute("CREATE TABLE alembic_version (version_num text)", name)
    postgres.execute("INSERT INTO alembic_version VALUES ('deadbeef')", name)
    for _ in range(2):
        async with connected(postgresql_url) as database:
            await register(database, connection=f"c-{_}")
    assert postgres.execute("SELECT version_num FROM alembic_version", name) == "deadbeef"


async def test_another_applications_tables_are_named(postgres: Postgres, postgresql_url: str) -> None:
    postgres.execute("CREATE TABLE runs (id int); CREATE TABLE events (id int)", name_of(postgresql_url))
    assert "(events, runs)" in await refusal(postgresql_url)


async def test_a_database_with_alembics_usual_table_is_still_ours(postgres: Postgres, postgresql_url: str) -> None:
    """As versions before made it."""
    name = name_of(postgresql_url)
    async with connected(postgresql_url) as database:
        run = await register(database)
    postgres.execute(f"ALTER TABLE {migrate.OWN_VERSION_TABLE} RENAME TO alembic_version", name)
    async with connected(postgresql_url) as database:
        assert await database.read(lambda tx: runs.get_run(tx, run.id)) == run
