"""Lists where requests are scarce or lists bring little: their worth, their pages, and the rests between them."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path

import pytest

from bridge.domain.limits.fair_limiter import Candidate
from bridge.domain.observation import ListedRun, RunPage
from bridge.polling import list_poller
from bridge.sandbox import DEFAULT_OUTPUT, Sandbox, Scenario
from bridge.store import runs
from bridge.store.database import Database
from tests.support.listing import CALM, EAGER, FOR_EVER, LISTS, all_observed, finish, lists, polls, register_all
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import open_database, seen
from tests.support.workbench import connection, note_sends, open_poller, work


@pytest.mark.slow
async def test_an_account_at_its_limit_pauses_for_lists_too(database: Database, sandbox: Sandbox) -> None:
    theirs = [sandbox.add_run("retab", scenario=Scenario(duration_s=0.5)) for _ in range(5)]
    sandbox.fail("retab", "429", count=1, retry_after=1)
    async with open_poller(database, connection(sandbox, "retab", cadence=EAGER, fetch_output=False)) as poller:
        sends = note_sends(poller)
        watched = await register_all(database, "retab", theirs)
        await finish(poller, database, watched)
    assert (sandbox.requests[0].status, sandbox.requests[0].path) == (429, LISTS["retab"])
    assert sends[1] - sends[0] >= 1.0


@pytest.mark.slow
async def test_further_pages_are_read_at_the_limit_too(database: Database, sandbox: Sandbox) -> None:
    """A page is worth more than the polls that would go instead."""
    theirs = [sandbox.add_run("retab", scenario=FOR_EVER, age_s=n / 100) for n in range(350)]
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM, requests_per_second=2.0)) as poller:
        watched = await register_all(database, "retab", theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
    assert len(polls(sandbox)) < len(lists(sandbox)) < 10


@pytest.mark.slow
@pytest.mark.parametrize("runs_min", [list_poller.RUNS_MIN, 1_000])
async def test_outputs_keep_to_the_limits_and_none_is_lost(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, runs_min: int
) -> None:
    """Whether a list shows the ends, all at once, or polls do."""
    monkeypatch.setattr(list_poller, "RUNS_MIN", runs_min)
    theirs = [sandbox.add_run("retab", scenario=Scenario(duration_s=0.0, output=DEFAULT_OUTPUT)) for _ in range(14)]
    settings = connection(sandbox, "retab", cadence=CALM, requests_per_second=8.0, max_in_flight=1)
    async with open_poller(database, settings) as poller:
        sends = note_sends(poller)
        watched = await register_all(database, "retab", theirs)
        await finish(poller, database, watched)
    found = await database.read(lambda tx: runs.get_runs(tx, [run.id for run in watched]))
    assert all(run.output is not None for run in found.values())
    burst = 8 + 1
    assert sends[-1] - sends[0] >= (len(sends) - burst) / 8 - 0.05


def page_of_others(count: int, cursor: str | None = None) -> RunPage:
    """A page that shows settled runs of other people."""
    return RunPage(tuple(ListedRun(f"other_{number}", seen("succeeded")) for number in range(count)), cursor)


async def test_a_cursor_that_was_seen_before_ends_the_walk(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ignores the cursor shows the same page again, for as long as it is asked."""
    asked: list[str | None] = []

    async def list_runs(*, since: datetime, cursor: str | None = None) -> RunPage:
        asked.append(cursor)
        return page_of_others(100, "again")

    theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(10)]
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM)) as poller:
        monkeypatch.setattr(poller.client, "list_runs", list_runs)
        watched = await register_all(database, "retab", theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
    assert asked == [None, "again"]
    assert {each.run_id for each in polls(sandbox)} == set(theirs), "what it does not show is polled by itself"


async def test_lists_that_show_no_watched_run_are_read_ever_more_rarely(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = page_of_others(5)

    async def list_runs(*, since: datetime, cursor: str | None = None) -> RunPage:
        return shown

    clock, settings = ManualClock(START), connection(sandbox, "retab", cadence=CALM, discover=True)
    async with open_poller(database, settings, clock=clock) as poller:
        monkeypatch.setattr(poller.client, "list_runs", list_runs)
        lists = poller.lists
        rests = []
        for _ in range(8):
            now = clock.monotonic()
            lists.begin(now)
            results = [result async for result in lists.read(now)]
            assert not any(result.seen for result in results)
            poller.client.limiter.answer(now, sent_at=now)
            rests.append(lists.rest_s(now))
    assert rests == sorted(rests)
    assert rests[-3:] == pytest.approx([32.0, 60.0, 60.0]), "a run to be discovered is found within a minute"


@pytest.mark.slow
async def test_a_list_is_worth_its_price_when_it_is_due_and_more_the_longer_it_waits(
    database: Database, sandbox: Sandbox
) -> None:
    """Where requests are scarce it competes with the polls of runs that it does not show."""
    theirs = [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)]
    async with open_poller(database, connection(sandbox, "retab", cadence=CALM)) as poller:
        watched = await register_all(database, "retab", theirs)
        await work(poller.run_pass, poller.bell, lambda: all_observed(database, watched))
        lists = poller.lists

        async def planned() -> tuple[float, float] | None:
            now = time.monotonic()
            return (now, lists.rest_s(now)) if 0 < lists.rest_s(now) < math.inf else None

        now, wait_s = await work(poller.run_pass, poller.bell, planned)
        assert lists.worth_s(now) == CALM.price_s
        assert lists.worth_s(now + 1000 * wait_s) > 100 * CALM.price_s


@pytest.mark.slow
async def test_a_list_that_is_due_but_worth_less_than_polls_that_wait_lets_the_poller_rest(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poller went round two thousand times a second for as long as another tenant had its turn."""
    monkeypatch.setattr("bridge.domain.limits.fair_limiter.TURN_S", 1e9)
    clock = ManualClock(START)
    settings = connection(sandbox, "retab", cadence=CALM)
    async with (
        open_database(f"sqlite:///{tmp_path / 'lists.db'}", clock) as database,
        open_poller(database, settings, clock=clock) as poller,
    ):
        await register_all(database, "retab", [sandbox.add_run("retab", scenario=FOR_EVER) for _ in range(5)])

        async def are_planned() -> bool:
            clock.advance(0.02)
            held = poller.schedule.all()
            is_read = len(held) == 5 and all(each.is_planned and each.run.observed_at for each in held)
            return is_read and poller.lists.rest_s(clock.monotonic()) < math.inf

        await work(poller.run_pass, poller.bell, are_planned)
        called: list[float] = []
        rival = Candidate("other", 1e9, 0.5, "other")
        poller.client.limiter.call_when_open(rival, lambda: called.append(clock.monotonic()))
        clock.advance(poller.lists.rest_s(clock.monotonic()))
        [taken] = poller.schedule.take_due(clock.monotonic() + 1e6, 1)
        poller.schedule.set_ready([(1e6, taken)], clock.monotonic())
        poller.schedule.queue_at_limiter(poller.bell.ring, waits=True)  # as the end of a pass does
        sent, passes, began = len(sandbox.requests), 0, clock.monotonic()
        while clock.monotonic() - began < 1.0:
            clock.advance(await poller.run_pass())
            passes += 1
        assert len(sandbox.requests) == sent
        assert called
        assert passes <= 30
