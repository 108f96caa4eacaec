"""Fixtures that several folders use: a clock, the two database engines, fake providers, a receiver of webhooks."""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest

from bridge.domain.clock import Clock, SystemClock
from bridge.sandbox import Receiver, Sandbox
from bridge.store.database import Database
from tests.support.manual_clock import START, ManualClock
from tests.support.postgres import Postgres
from tests.support.watching import open_database

NPM_S = 180.0
NODE_PACKAGES = ("standardwebhooks", "express", "hono", "@hono/node-server")
# The machine may be busy: how long an example takes says nothing. The examples are the same each time, so that what
# passed passes again; `make test ARGS=--hypothesis-profile=explore` searches on. `make test-fast` chooses the second.
PATIENT = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True, database=None
)
hypothesis.settings.register_profile("patient", PATIENT)
hypothesis.settings.register_profile("fast", PATIENT, max_examples=20)
hypothesis.settings.register_profile("explore", PATIENT, max_examples=500, derandomize=False)
hypothesis.settings.load_profile("patient")


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start, also where the suite itself runs in the background.

    A shell starts background jobs with SIGINT ignored, and what is ignored is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what lives until the end: it walked thousands of tests again and again."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # as in the daemon


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start processes or install from npm are slow: `make test-fast` does neither."""
    for item in items:
        if {"postgres", "running", "node_folder"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The one PostgreSQL of this test run, started when a test first asks for it.

    A test process that does not get the processor for three seconds must not lose its transaction, as its daemon would.
    """
    with Postgres() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.store.postgres.engine.STANDSTILL_S", 60.0)
        patch.setattr("bridge.store.postgres.engine.TRANSACTION_S", 60.0)
        yield server


@pytest.fixture
def postgresql_url(postgres: Postgres) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the schema and no row, to be copied: the migrations take ten times as long."""
    path = tmp_path_factory.mktemp("template") / "runbridge.db"

    async def migrate() -> None:
        database = Database(f"sqlite:///{path}", SystemClock())
        await database.open()
        await database.close()

    with ThreadPoolExecutor(1) as thread:  # with an event loop of its own
        thread.submit(asyncio.run, migrate()).result()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, empty_sqlite: Path) -> str:
    """A fresh SQLite database."""
    return f"sqlite:///{shutil.copy(empty_sqlite, tmp_path)}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database, once per engine: a test that asks for this runs on both."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves; the databases below run on it."""
    return ManualClock(START)


@pytest.fixture
async def lone(sqlite_url: str, clock: Clock) -> AsyncIterator[Database]:
    """A new SQLite database, open: for rules that do not depend on the engine."""
    async with open_database(sqlite_url, clock) as opened:
        yield opened


@pytest.fixture
async def either(database_url: str, clock: Clock) -> AsyncIterator[Database]:
    """A new database, open, once per engine."""
    async with open_database(database_url, clock) as opened:
        yield opened


@pytest.fixture
def database(lone: Database) -> Database:
    """The database of most tests. A folder or file that tests both engines returns `either` from its own `database`."""
    return lone


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """The fake providers, listening."""
    async with Sandbox() as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver of webhooks that verifies and keeps what arrives."""
    async with Receiver() as opened:
        yield opened


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm packages that the manual's Node receivers need."""
    folder = tmp_path_factory.mktemp("node")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), *NODE_PACKAGES],
        check=True,
        timeout=NPM_S,
    )
    return folder
