"""A run that its provider starts again under the same id is a new run here."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from aiohttp import web

from bridge.domain.connection import CadenceSettings, Connection
from bridge.domain.definition import Definition
from bridge.domain.run import Run, RunStatus
from bridge.domain.secret import Secret
from bridge.polling.poller import Poller
from bridge.store import run_lists
from bridge.store.database import Database
from bridge.store.run_lists import RunFilter
from tests.support.foreign_server import foreign_server
from tests.support.watching import register
from tests.support.workbench import event_types, open_poller, work

DEFINITION = """
schema = 1
name = "jobs"
[run]
get = "/jobs/{id}"
[read]
status = "state"
id = "id"
created_at = "at"
generation = "attempt"
[status]
running = ["RUN"]
succeeded = ["OK"]
[list]
get = "/jobs"
items = "jobs"
id = "id"
whole = true
"""
OFTEN = CadenceSettings(price_s=1e-7, min_interval_s=0.02, max_interval_s=0.2)


class Jobs:
    """One job with its attempt, as a server shows it."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {"id": "7", "state": "RUN", "attempt": 1, "at": "2026-01-15T10:00:00Z"}

    async def handle(self, request: web.Request) -> web.Response:
        return web.json_response(self.job if request.path.endswith("/7") else {"jobs": [self.job]})


def connection(url: str, *, discover: bool) -> Connection:
    definition = Definition("jobs", "1.0.0", "test", "0", tomllib.loads(DEFINITION))
    return Connection(
        "j", "jobs", url, Secret("key-123456"), requests_per_second=500.0, cadence=OFTEN, discover=discover,
        definition=definition,
    )  # fmt: skip


async def every_run(database: Database) -> list[Run]:
    """Oldest first."""
    found = await database.read(lambda tx: run_lists.list_runs(tx, RunFilter(), limit=100, before=None))
    return sorted(found, key=lambda run: run.id)


async def until_runs(poller: Poller, database: Database, *wanted: RunStatus) -> list[Run]:
    async def are_so() -> bool:
        return [run.status for run in await every_run(database)] == list(wanted)

    await work(poller.run_pass, poller.bell, are_so)
    return await every_run(database)


async def test_a_run_that_begins_again_while_it_is_watched_ends_and_the_new_one_is_watched(database: Database) -> None:
    jobs = Jobs()
    async with foreign_server(jobs.handle) as server:
        settings = connection(server.url, discover=False)
        async with open_poller(database, settings) as poller:
            await register(database, "7", connection="j", provider="jobs", metadata={"order": 1}, tags=("a",))
            await until_runs(poller, database, RunStatus.RUNNING)
            jobs.job |= {"attempt": 2}
            before, after = await until_runs(poller, database, RunStatus.LOST, RunStatus.RUNNING)
            jobs.job |= {"state": "OK"}
            await until_runs(poller, database, RunStatus.LOST, RunStatus.SUCCEEDED)
    assert before.error is not None
    assert before.error.code == "started_again"
    assert (before.generation, after.generation) == ("1", "2")
    assert (after.provider_run_id, after.metadata, after.tags) == ("7", {"order": 1}, ("a",))
    assert await event_types(database, before.id) == ["run.started", "run.finished"]
    assert await event_types(database, after.id) == ["run.started", "run.finished"]


@pytest.mark.slow
async def test_a_list_that_shows_an_ended_run_begun_again_finds_a_new_run_once(database: Database) -> None:
    jobs = Jobs()
    async with (
        foreign_server(jobs.handle) as server,
        open_poller(database, connection(server.url, discover=True)) as poller,
    ):
        await until_runs(poller, database, RunStatus.RUNNING)
        jobs.job |= {"state": "OK"}
        await until_runs(poller, database, RunStatus.SUCCEEDED)
        jobs.job |= {"attempt": 2}
        await until_runs(poller, database, RunStatus.SUCCEEDED, RunStatus.SUCCEEDED)
        lists = len(server.seen)

        async def is_listed_again() -> bool:
            return len(server.seen) > lists + 2

        await work(poller.run_pass, poller.bell, is_listed_again)
    assert [run.generation for run in await every_run(database)] == ["1", "2"]
