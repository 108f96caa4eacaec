"""The poller against the four sandbox APIs: what it sees becomes events, what goes wrong never becomes a state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bridge.domain.connection import CadenceSettings
from bridge.domain.failure import FailureKind, LastError
from bridge.domain.limits.adaptive import RateLimit
from bridge.domain.observation import PollResult
from bridge.domain.run import CadenceOverrides, RunStatus
from bridge.polling.duration_learner import LearnedState
from bridge.polling.poll_results import Continue
from bridge.runtime.metrics import Metrics
from bridge.sandbox import DEFAULT_OUTPUT, Sandbox, Scenario, Step
from bridge.store import run_leases, runs
from bridge.store.database import Database
from bridge.store.run_leases import PollRecord
from bridge.store.transaction import Tx
from tests.support.foreign_server import answering, foreign_server
from tests.support.manual_clock import ManualClock
from tests.support.watching import NODE, add_endpoint, only, open_database, register
from tests.support.workbench import (
    QUICK,
    connection,
    event_types,
    finish,
    next_poll_shown,
    note_sends,
    open_poller,
    reach,
    settled,
    work,
)

PROVIDERS = ("dibby", "retab", "dify", "instabase")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_run_goes_through_its_life_and_each_step_is_reported(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run(provider, scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, provider)) as poller:
        run = await register(database, theirs, connection=f"{provider}-1", provider=provider)
        await reach(poller, database, run.id, RunStatus.RUNNING)
        sandbox.add_run(provider, run_id=theirs, scenario=Scenario(duration_s=0.0, output=DEFAULT_OUTPUT))
        after = await finish(poller, database, run.id)
        assert after.status is RunStatus.SUCCEEDED
        assert after.output is not None
        assert after.next_poll_at is None
        assert await event_types(database, run.id) == ["run.started", "run.finished"]
        assert len(poller.schedule) == 0


@pytest.mark.slow
async def test_polls_and_delay_of_every_run_that_ends_are_measured(database: Database, sandbox: Sandbox) -> None:
    metrics = Metrics()
    measured = metrics.registry.get_sample_value
    async with open_poller(database, connection(sandbox, "dibby"), metrics=metrics) as poller:
        seen_over = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.3), age_s=60)
        run = await register(database, seen_over, connection="dibby-1", provider="dibby")
        await finish(poller, database, run.id)
        assert measured("runbridge_polls_per_run_sum", {"connection": "dibby-1"}) == 1
        assert measured("runbridge_noticed_delay_seconds_count", {"connection": "dibby-1"}) is None  # unknown
        seen_alive = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
        run = await register(database, seen_alive, connection="dibby-1", provider="dibby")
        await reach(poller, database, run.id, RunStatus.RUNNING)
        sandbox.add_run("dibby", run_id=seen_alive, scenario=Scenario(duration_s=0.0))
        after = await finish(poller, database, run.id)
        assert after.polls > 1
        assert measured("runbridge_polls_per_run_sum", {"connection": "dibby-1"}) == 1 + after.polls
        assert measured("runbridge_noticed_delay_seconds_count", {"connection": "dibby-1"}) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_run_that_is_over_when_registered_fires_at_the_first_poll(
    provider: str, database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run(provider, scenario=Scenario(duration_s=1.0, outcome="failed"), age_s=60)
    async with open_poller(database, connection(sandbox, provider)) as poller:
        run = await register(database, theirs, connection=f"{provider}-1", provider=provider)
        after = await finish(poller, database, run.id)
        assert after.status is RunStatus.FAILED
        assert after.polls == 1
        assert await event_types(database, run.id) == ["run.finished"]


@pytest.mark.slow
async def test_waiting_is_reported_as_often_as_it_happens(database: Database) -> None:
    theirs_clock = ManualClock(datetime.now(UTC))
    steps = (Step(0, "running"), Step(0.3, "waiting"), Step(0.6, "running"), Step(0.9, "waiting"), Step(1.2, "running"))
    async with (
        Sandbox(clock=theirs_clock) as sandbox,
        open_poller(database, connection(sandbox, "dify")) as poller,
    ):
        theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=1.5, outcome="succeeded", steps=steps))
        run = await register(database, theirs, connection="dify-1")
        for step in steps:
            await reach(poller, database, run.id, RunStatus(step.status))
            theirs_clock.advance(0.31)
        await finish(poller, database, run.id)
    assert await event_types(database, run.id) == [
        "run.started",
        "run.waiting",
        "run.resumed",
        "run.waiting",
        "run.resumed",
        "run.finished",
    ]


@pytest.mark.parametrize("kind", ["500", "502", "503", "429", "garbage", "html", "reset"])
async def test_a_poll_error_is_never_a_run_state(kind: str, database: Database, sandbox: Sandbox) -> None:
    """Loops that die on one 502 are why this daemon exists."""
    theirs = sandbox.add_run("retab", scenario=Scenario(duration_s=0.2, outcome="succeeded"))
    sandbox.fail("retab", kind, count=3, retry_after=0.05 if kind in {"429", "503"} else None)
    async with open_poller(database, connection(sandbox, "retab")) as poller:
        run = await register(database, theirs, connection="retab-1", provider="retab")
        after = await finish(poller, database, run.id)
    assert after.status is RunStatus.SUCCEEDED
    assert [t for t in await event_types(database, run.id) if t != "run.started"] == ["run.finished"]


@pytest.mark.slow
async def test_an_unknown_word_keeps_the_run_watched(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby")

        async def is_in(status: RunStatus) -> bool:
            return (await database.read(lambda tx: runs.get_runs(tx, [run.id])))[run.id].status is status

        await work(poller.run_pass, poller.bell, lambda: is_in(RunStatus.RUNNING))
        sandbox.add_run("dibby", run_id=theirs, scenario=Scenario(duration_s=None, steps=(Step(0, "hovering"),)))
        await work(poller.run_pass, poller.bell, lambda: is_in(RunStatus.UNKNOWN))
        sandbox.add_run("dibby", run_id=theirs, scenario=Scenario(duration_s=0.0))
        await finish(poller, database, run.id)
    rows = await database.read(lambda tx: runs.list_transitions(tx, run.id))
    assert [row.to_status for row in rows] == ["running", "unknown", "succeeded"]
    assert rows[1].provider_status == "hovering"


@pytest.mark.parametrize(("kind", "is_unusable"), [("500", False), ("garbage", True)])
async def test_the_output_request_may_fail_without_holding_the_event_back(
    kind: str, is_unusable: bool, database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run("instabase", scenario=Scenario(duration_s=0.0, outcome="succeeded"), age_s=5)
    sandbox.fail("instabase", kind, count=None, path_contains="/results")
    async with open_poller(database, connection(sandbox, "instabase")) as poller:
        run = await register(database, theirs, connection="instabase-1", provider="instabase")
        after = await finish(poller, database, run.id)
    assert (after.status, after.output, after.output_truncated) == (RunStatus.SUCCEEDED, None, is_unusable)


async def test_a_run_whose_output_cannot_be_kept_is_over_all_the_same(database: Database, sandbox: Sandbox) -> None:
    scenario = Scenario(duration_s=0.0, output={"text": "x" * 9 * 2**20})
    theirs = sandbox.add_run("dibby", scenario=scenario, age_s=5)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        after = await finish(poller, database, run.id)
    assert (after.status, after.output, after.output_truncated) == (RunStatus.SUCCEEDED, None, True)
    assert len(sandbox.requests) == 1


async def test_fetch_output_false_makes_no_second_request(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("instabase", scenario=Scenario(duration_s=0.0, outcome="succeeded"), age_s=5)
    async with open_poller(database, connection(sandbox, "instabase", fetch_output=False)) as poller:
        run = await register(database, theirs, connection="instabase-1", provider="instabase")
        await finish(poller, database, run.id)
    assert len(sandbox.requests) == 1


async def test_a_run_whose_answer_breaks_the_reader_is_polled_again(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that no provider foresaw must not leave a run held and never due."""
    monkeypatch.setattr("bridge.polling.poller.CRASHED", Continue(0.0, "it broke"))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        fetch_run, breaks = poller.client.provider.fetch_run, [RecursionError("too deep")]

        async def fetch_or_break(*args: Any) -> PollResult:
            if breaks:
                raise breaks.pop()
            return await fetch_run(*args)

        monkeypatch.setattr(poller.client.provider, "fetch_run", fetch_or_break)
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0))
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        assert (await finish(poller, database, run.id)).status is RunStatus.SUCCEEDED
        assert poller.client.limiter.in_flight == 0


@pytest.mark.slow
async def test_a_late_run_is_not_yet_visible_rather_than_lost(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("retab", scenario=Scenario(duration_s=1.0, outcome="succeeded"), late_404_s=0.5)
    async with open_poller(database, connection(sandbox, "retab")) as poller:
        run = await register(database, theirs, connection="retab-1", provider="retab")
        after = await finish(poller, database, run.id)
    assert after.status is RunStatus.SUCCEEDED


async def test_a_run_is_lost_after_five_404s_over_a_minute_and_not_before(tmp_path: Path, sandbox: Sandbox) -> None:
    """Never from a single 404, nor from five quick ones."""
    clock = ManualClock(datetime(2026, 1, 15, tzinfo=UTC))
    async with open_database(f"sqlite:///{tmp_path / 'lost.db'}", clock) as database:
        settings = connection(sandbox, "dibby")
        async with open_poller(database, settings, clock=clock) as poller:
            run = await register(database, "run_gone", connection="dibby-1", provider="dibby")

            async def asked(times: int) -> bool:
                tracked = poller.leases.find(run.id)
                return tracked is None or (tracked.polls >= times and not tracked.is_in_flight)

            for times in range(1, 8):
                await work(poller.run_pass, poller.bell, lambda wanted=times: asked(wanted))
                clock.advance(1.0)
            assert await settled(database, run.id) is None
            clock.advance(60.0)
            after = await finish(poller, database, run.id)
    assert after.status is RunStatus.LOST
    assert after.error is not None
    assert after.error.code == "not_found"


async def test_a_deadline_makes_a_run_expired_after_a_last_poll(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    deadline_at = datetime.now(UTC) + timedelta(seconds=0.5)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby", deadline_at=deadline_at)
        after = await finish(poller, database, run.id)
    assert after.status is RunStatus.EXPIRED
    assert after.observed_at is not None
    assert after.observed_at >= deadline_at
    assert await event_types(database, run.id) == ["run.started", "run.finished"]


async def test_a_deadline_holds_while_the_provider_is_gone(database: Database, sandbox: Sandbox) -> None:
    sandbox.fail("dibby", "500", count=None)
    deadline_at = datetime.now(UTC) + timedelta(seconds=0.3)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, "run_x", connection="dibby-1", provider="dibby", deadline_at=deadline_at)
        after = await finish(poller, database, run.id)
    assert after.status is RunStatus.EXPIRED
    assert after.error is not None
    assert "no status was ever read; the last poll failed (GET /runs/run_x: HTTP 5" in after.error.message


@pytest.mark.slow
async def test_progress_is_an_event_for_those_who_ask(database: Database, sandbox: Sandbox) -> None:
    await add_endpoint(database, events=only("run.progressed", "run.finished"))
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=2.0, parts=4))
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        await finish(poller, database, run.id)
    types = await event_types(database, run.id)
    assert types[0] == "run.started"
    assert types[-1] == "run.finished"
    assert types.count("run.progressed") >= 2


@pytest.mark.slow
async def test_no_two_polls_of_a_run_are_closer_than_min_interval(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=1.0))
    settings = connection(sandbox, "dibby", cadence=replace(QUICK, min_interval_s=0.2, max_interval_s=0.2))
    async with open_poller(database, settings) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        sandbox.fail("dibby", "500", count=2)
        sends = note_sends(poller)
        await finish(poller, database, run.id)
    assert len(sends) == len(sandbox.requests) > 2
    assert min(b - a for a, b in pairwise(sends)) >= 0.2 - 1e-6


async def test_a_run_may_set_its_own_cadence(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.5))
    own = CadenceOverrides(min_interval_s=20.0, max_interval_s=30.0)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        run = await register(database, theirs, connection="dibby-1", provider="dibby", cadence=own)

        async def polled() -> bool:
            tracked = poller.leases.find(run.id)
            return (
                tracked is not None and tracked.polls == 1 and not tracked.is_in_flight and tracked.reason is not None
            )

        await work(poller.run_pass, poller.bell, polled)
        tracked = poller.leases.find(run.id)
        assert tracked is not None
        assert tracked.next_poll_at is not None
        assert tracked.next_poll_at - datetime.now(UTC) > timedelta(seconds=15)


async def test_seats_bound_the_requests_in_flight(database: Database, sandbox: Sandbox) -> None:
    settings = connection(sandbox, "dify", max_in_flight=2)
    ids = [sandbox.add_run("dify", scenario=Scenario(duration_s=0.0), age_s=9) for _ in range(20)]
    async with open_poller(database, settings) as poller:
        watched = [await register(database, theirs, connection="dify-1") for theirs in ids]
        for run in watched:
            await finish(poller, database, run.id)
    assert sandbox.state.in_flight_peak["dify"] <= 2


async def test_a_removed_run_is_let_go(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=0.3))
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        run = await register(database, theirs, connection="dify-1")
        await poller.run_pass()
        await database.write(lambda tx: runs.delete_run(tx, run.id))

        async def let_go() -> bool:
            return poller.leases.find(run.id) is None

        await work(poller.run_pass, poller.bell, let_go)
    assert await event_types(database, run.id) == []


async def test_a_wish_of_the_provider_outlives_this_process(database: Database, sandbox: Sandbox) -> None:
    """Killed at this moment, the daemon leaves a run that is not claimed again before the wish has come to its end."""
    wishing = answering({"status": "RUNNING"}, headers={"Retry-After": "40"})
    async with foreign_server(wishing) as server:
        settings = connection(sandbox, "dibby", base_url=server.url)
        async with open_poller(database, settings) as poller:
            run = await register(database, connection="dibby-1", provider="dibby")

            async def is_written() -> bool:
                found = await database.read(lambda tx: runs.get_run(tx, run.id))
                return found is not None and (found.next_poll_at or found.registered_at) > datetime.now(UTC)

            await work(poller.run_pass, poller.bell, is_written)
            assert poller.schedule.get(run.id) is not None, "it stays in hand"
            await database.write(lambda tx: run_leases.release(tx, node=NODE, run_ids=[run.id]))  # as a death does
            soon = timedelta(seconds=30)
            claim = {"node": "node_2", "connection": "dibby-1", "limit": 9}
            assert await database.write(lambda tx: run_leases.acquire_due(tx, until=tx.now + soon, **claim)) == []
            assert await database.write(lambda tx: run_leases.acquire_due(tx, until=tx.now + 2 * soon, **claim))
    assert len(server.seen) == 1


async def test_why_a_run_cannot_be_read_outlives_this_process_and_costs_no_commit_a_poll(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart, and at another node, nothing said why no event came."""
    save, saved = run_leases.save_polls, list[int]()

    def counting(tx: Tx, *, node: str, records: Sequence[PollRecord], keep_lease: bool = False) -> None:
        saved.append(len(records) if keep_lease else 0)
        save(tx, node=node, records=records, keep_lease=keep_lease)

    monkeypatch.setattr(run_leases, "save_polls", counting)
    sandbox.fail("dibby", "html", count=None)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
        run = await register(database, theirs, connection="dibby-1", provider="dibby")

        async def stored() -> LastError | None:
            found = await database.read(lambda tx: runs.get_run(tx, run.id))
            return found and found.last_error

        async def has_failed_often() -> bool:
            tracked = poller.leases.find(run.id)
            error = tracked and tracked.last_error
            return bool(error and error.count >= 20 and await stored())

        await work(poller.run_pass, poller.bell, has_failed_often, timeout_s=40.0)
        assert sum(saved) == 1
        error = await stored()
        assert error is not None
        assert (error.kind, error.count >= 1) == (FailureKind.GATEWAY, True)
        assert "a web page" in error.message
        sandbox.clear_faults()

        async def is_forgotten() -> bool:
            return await stored() is None

        await work(poller.run_pass, poller.bell, is_forgotten)
        assert sum(saved) <= 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_that_a_failed_poll_asked_for_outlives_this_process(
    status: int, database: Database, sandbox: Sandbox
) -> None:
    """It is asked of the whole account: the next process polls no other run of it either."""
    async with foreign_server(answering({}, status=status, headers={"Retry-After": "600"})) as server:
        settings = connection(sandbox, "dibby", base_url=server.url)
        async with open_poller(database, settings) as poller:
            run = await register(database, connection="dibby-1", provider="dibby")
            again = RateLimit()

            async def is_kept() -> bool:
                await LearnedState.load(database, "dibby-1", again)
                found = await database.read(lambda tx: runs.get_run(tx, run.id))
                assert found is not None
                is_due_later = (found.next_poll_at or found.registered_at) > datetime.now(UTC) + timedelta(minutes=5)
                return is_due_later and again.opens_at > time.monotonic() + 300.0

            await work(poller.run_pass, poller.bell, is_kept)
            limit = poller.client.limiter.rate_limit
            limit.end_pause(time.monotonic())

            async def is_over() -> bool:
                after = RateLimit()
                await LearnedState.load(database, "dibby-1", after)
                return after.opens_at <= time.monotonic()

            await work(poller.run_pass, poller.bell, is_over)


async def test_a_rate_that_was_learned_is_there_after_a_restart(database: Database, sandbox: Sandbox) -> None:
    settings = connection(sandbox, "dify", requests_per_second=None)
    async with open_poller(database, settings) as poller:
        poller.client.limiter.rate_limit.recall('{"rate": 42.0, "refused": 50.0}')
    again = RateLimit()
    await LearnedState.load(database, "dify-1", again)
    assert again.rate == 42.0
    assert RateLimit().rate != 42.0


async def test_when_and_why_a_run_is_polled_next_is_shown_while_it_waits_for_the_limit_too(
    database: Database, sandbox: Sandbox
) -> None:
    theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=None))
    calm = CadenceSettings(min_interval_s=0.02, max_interval_s=300.0)
    async with open_poller(database, connection(sandbox, "dibby", cadence=calm)) as poller:
        limit = poller.client.limiter.rate_limit
        limit.pause(time.monotonic(), 60.0)
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        at, reason = next_poll_shown(database, poller, run)
        assert 20 < (at - datetime.now(UTC)).total_seconds() < 61
        assert "it is due, and waits for its turn at the connection's limit" in str(reason)
        limit.end_pause(time.monotonic())

        async def planned() -> bool:
            tracked = poller.schedule.get(run.id)
            return tracked is not None and not tracked.is_in_flight and tracked.reason is not None

        await work(poller.run_pass, poller.bell, planned)
        at, reason = next_poll_shown(database, poller, run)
        assert at > datetime.now(UTC)
        assert "nothing is known yet of how long such runs take" in str(reason)
