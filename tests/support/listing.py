"""Short ways to say what happens with lists: runs registered together, what was asked, until all of them were seen."""

from __future__ import annotations

from dataclasses import replace

from bridge.domain.connection import CadenceSettings
from bridge.domain.run import Run
from bridge.polling.poller import Poller
from bridge.sandbox import Sandbox, Scenario
from bridge.sandbox.state import RequestSeen
from bridge.store import runs
from bridge.store.database import Database
from tests.support.watching import new_run
from tests.support.workbench import settled, work

LISTS = {"retab": "/retab/v1/workflows/runs", "instabase": "/instabase/v2/apps/runs"}
FOR_EVER = Scenario(duration_s=None)
CALM = CadenceSettings(price_s=0.5, min_interval_s=0.02, max_interval_s=300.0)
EAGER = replace(CALM, price_s=0.01)


def lists(sandbox: Sandbox) -> list[RequestSeen]:
    """The requests for lists."""
    return [seen for seen in sandbox.requests if seen.path in LISTS.values()]


def polls(sandbox: Sandbox) -> list[RequestSeen]:
    """The requests for single runs."""
    return [seen for seen in sandbox.requests if seen.path not in LISTS.values()]


async def register_all(database: Database, provider: str, theirs: list[str]) -> list[Run]:
    """All of them in one transaction, as a batch registers them."""
    new = [new_run(each, connection=f"{provider}-1", provider=provider) for each in theirs]
    return await database.write(lambda tx: runs.insert_runs(tx, new))


async def all_settled(database: Database, watched: list[Run]) -> bool:
    """Whether every run is settled."""
    return all([await settled(database, run.id) for run in watched])


async def all_observed(database: Database, watched: list[Run]) -> bool:
    """Whether every run was seen once."""
    found = await database.read(lambda tx: runs.get_runs(tx, [run.id for run in watched]))
    return all(run.observed_at is not None for run in found.values())


async def finish(poller: Poller, database: Database, watched: list[Run]) -> None:
    """Let the poller work until every run is settled."""
    await work(poller.run_pass, poller.bell, lambda: all_settled(database, watched))
