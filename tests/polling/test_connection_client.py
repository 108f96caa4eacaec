"""The health of a connection: unknown, ok, or failing, whatever the kind of trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import pytest

from bridge.domain.connection import Connection, ConnectionHealth
from bridge.domain.errors import StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.failure import FailureKind
from bridge.domain.limits.fair_limiter import Candidate
from bridge.domain.observation import Observed, PollFailed
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.polling import trouble
from bridge.polling.connection_client import FAILURES_MIN, ConnectionClient
from bridge.providers.http import ProviderSessions
from bridge.sandbox import DEFAULT_OUTPUT, Sandbox, Scenario
from bridge.store import connections, events
from bridge.store.database import Database
from bridge.store.transaction import Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import register, seen
from tests.support.workbench import connection, finish, open_poller, work

BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0)
PASS_EVERY_S = 10.0
READABLE = Observed(seen("running"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def client(clock: ManualClock):
    settings = Connection("hub", "dibby", "http://127.0.0.1:9", Secret("key"))
    async with ProviderSessions() as sessions:
        yield ConnectionClient(settings, sessions, health=ConnectionHealth.UNKNOWN, clock=clock)


def answer(
    client: ConnectionClient, clock: ManualClock, result: Observed | PollFailed, run_id: str = "r1", held: int = 1
) -> None:
    now = clock.monotonic()
    client.judge(result, sent_at=now, now=now, runs_held=held, run_id=run_id)


def fail_for(
    client: ConnectionClient, clock: ManualClock, seconds: float, run_ids: Sequence[str], kind: FailureKind, held: int
) -> list[tuple[ConnectionHealth, str | None]]:
    """Polls of these runs in turn, each after a longer back-off, with passes of the poller in between.

    Returns each health that the connection had, with its reason.
    """
    had = [(client.health, client.reason)]
    began, polls = clock.monotonic(), list(accumulate(BACK_OFF_S, initial=0.0))
    while (elapsed := clock.monotonic() - began) <= seconds:
        while polls and polls[0] <= elapsed:
            failed = PollFailed(kind, "the answer is not JSON but HTML")
            answer(client, clock, failed, run_ids[len(polls) % len(run_ids)], held)
            polls.pop(0)
        client.judge_unreadable(clock.monotonic(), runs_held=held)
        had += [now] if (now := (client.health, client.reason)) != had[-1] else []
        clock.advance(min(PASS_EVERY_S, polls[0] - elapsed if polls else PASS_EVERY_S))
    return had


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.NOT_FOUND])
@pytest.mark.parametrize("run_ids", [["r1"], ["r1", "r2", "r3"]])
def test_a_connection_that_brings_nothing_readable_is_failing_within_two_minutes(
    client: ConnectionClient, clock: ManualClock, kind: FailureKind, run_ids: list[str]
) -> None:
    [_, now] = fail_for(client, clock, 100.0, run_ids, kind, held=len(run_ids))
    assert now == (ConnectionHealth.FAILING, "the answer is not JSON but HTML")
    assert client.last_error is not None
    assert (client.last_error.kind, client.last_error.message) == (kind, "the answer is not JSON but HTML")
    assert client.last_error.count >= 7


@pytest.mark.parametrize("kind", [FailureKind.BAD_PAYLOAD, FailureKind.REJECTED])
def test_one_run_in_trouble_beside_others_that_are_not_due_is_no_trouble_of_the_connection(
    client: ConnectionClient, clock: ManualClock, kind: FailureKind
) -> None:
    answer(client, clock, READABLE, "r2", held=2)
    assert fail_for(client, clock, 200.0, ["r1"], kind, held=2) == [(ConnectionHealth.OK, None)]


def test_a_long_pause_that_the_provider_asks_for_is_shown_too(client: ConnectionClient, clock: ManualClock) -> None:
    """A single refusal, and no poll for an hour."""
    answer(client, clock, READABLE)
    answer(client, clock, PollFailed(FailureKind.THROTTLED, "429, again in 1h", 429, retry_after_s=3600.0))
    clock.advance(60.0)
    client.judge_unreadable(clock.monotonic(), runs_held=1)
    assert client.health is ConnectionHealth.OK
    clock.advance(30.0)
    client.judge_unreadable(clock.monotonic(), runs_held=1)
    assert (client.health, client.reason) == (ConnectionHealth.FAILING, "429, again in 1h")


def test_trouble_that_answers_show_holds_back_no_polls(client: ConnectionClient, clock: ManualClock) -> None:
    """The next registered run may be readable."""
    fail_for(client, clock, 100.0, ["r1"], FailureKind.BAD_PAYLOAD, held=1)
    assert client.health is ConnectionHealth.FAILING
    assert not client.is_probing
    assert client.opens_in_s(clock.monotonic()) == 0


def test_the_first_readable_answer_ends_all_of_it(client: ConnectionClient, clock: ManualClock) -> None:
    fail_for(client, clock, 100.0, ["r1"], FailureKind.BAD_PAYLOAD, held=1)
    answer(client, clock, READABLE)
    assert (client.health, client.last_error) == (ConnectionHealth.OK, None)
    clock.advance(1000.0)
    client.judge_unreadable(clock.monotonic(), runs_held=1)
    assert client.health is ConnectionHealth.OK


def test_one_readable_answer_among_many_unreadable_ones_changes_nothing(
    client: ConnectionClient, clock: ManualClock
) -> None:
    """One backend of twenty is well: the trouble of three hundred runs was over for as long as one answer lasts."""
    failed, had = PollFailed(FailureKind.BAD_PAYLOAD, "text instead of JSON"), [client.health]
    for n in range(2400):
        answer(client, clock, READABLE if n % 20 == 19 else failed, f"r{n % 299}", held=299)
        client.judge_unreadable(clock.monotonic(), runs_held=299)
        had += [client.health] if client.health is not had[-1] else []
        clock.advance(0.05)
    assert had == [ConnectionHealth.UNKNOWN, ConnectionHealth.OK, ConnectionHealth.FAILING]
    assert client.reason == "text instead of JSON"
    assert client.take_recovery() == trouble.LATEST_MAX, "a few runs are polled at once, to find out"


def test_trouble_is_over_when_half_of_the_latest_polls_can_be_read(
    client: ConnectionClient, clock: ManualClock
) -> None:
    run_ids = [f"r{n}" for n in range(8)]
    fail_for(client, clock, 100.0, run_ids, FailureKind.BAD_PAYLOAD, held=8)
    had = []
    for run_id in run_ids:
        answer(client, clock, READABLE, run_id, held=8)
        had.append(client.health)
    assert had == [ConnectionHealth.FAILING] * 3 + [ConnectionHealth.OK] * 5
    assert client.take_recovery() > trouble.LATEST_MAX, "every run whose poll failed"


def test_runs_that_are_gone_do_not_hold_up_a_recovery(client: ConnectionClient, clock: ManualClock) -> None:
    run_ids = [f"r{n}" for n in range(8)]
    fail_for(client, clock, 100.0, run_ids, FailureKind.BAD_PAYLOAD, held=8)
    for run_id in run_ids[1:]:
        client.forget_run(run_id)
    answer(client, clock, READABLE, "r0", held=1)
    assert client.health is ConnectionHealth.OK


async def test_a_connection_is_unknown_until_its_first_answer_which_is_no_recovery(
    database: Database, sandbox: Sandbox
) -> None:
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        assert await database.read(connections.list_health) == {}
        assert poller.client.health is ConnectionHealth.UNKNOWN
        theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0))
        run = await register(database, theirs, connection="dibby-1", provider="dibby")
        await finish(poller, database, run.id)
    health = await database.read(connections.list_health)
    assert (health["dibby-1"].health, health["dibby-1"].reason) == (ConnectionHealth.OK, None)
    feed = await database.read(lambda tx: events.list_feed(tx, after=0, limit=50))
    assert [event.type for event in feed] == [EventType.RUN_FINISHED]


async def test_html_instead_of_answers_is_seen_at_the_run_and_at_the_connection(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as it lasts: the health was ok, no event was recorded, and nothing said why no run ended."""
    monkeypatch.setattr(trouble, "UNREADABLE_S", 0.3)
    sandbox.fail("dibby", "html", count=None)
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        made = [sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)) for _ in range(2)]
        run, other = [await register(database, i, connection="dibby-1", provider="dibby") for i in made]

        async def is_failing() -> bool:
            """Whether the connection is failing and the run's error was counted twice; either may come first."""
            health = await database.read(connections.list_health)
            if not health or health["dibby-1"].health is not ConnectionHealth.FAILING:
                return False
            tracked = poller.leases.find(run.id)
            assert tracked is not None
            assert tracked.last_error is not None
            assert tracked.last_error.kind is FailureKind.GATEWAY
            return tracked.last_error.count >= 2

        await work(poller.run_pass, poller.bell, is_failing)
        assert "a web page" in str(poller.client.reason)
        sandbox.clear_faults()
        for each in (run, other):
            assert (await finish(poller, database, each.id)).status is RunStatus.SUCCEEDED
        assert poller.client.last_error is None
    feed = await database.read(lambda tx: events.list_feed(tx, after=0, limit=50))
    assert [event.type for event in feed][:2] == [EventType.CONNECTION_FAILING, EventType.CONNECTION_RECOVERED]


# -- requests that follow from others


def poll_worth(worth_s: float) -> Candidate:
    return Candidate("run", worth_s, 0.5, "polls")


async def test_an_output_waits_for_polls_that_are_worth_more_and_then_has_its_turn(client: ConnectionClient) -> None:
    limiter, called = client.limiter, list[str]()
    limiter.call_when_open(poll_worth(5.0), lambda: called.append("poll"))
    waiting = asyncio.create_task(client.take_turn("outputs", lambda _now: 1.0))
    await until(lambda: called == ["poll"])
    assert not waiting.done()
    assert limiter.admit([poll_worth(5.0)], now=1000.0, is_scarce=True)
    limiter.send(1000.0, "polls")
    await asyncio.wait_for(waiting, 60)
    assert limiter.in_flight == 2


async def test_an_output_that_has_waited_long_goes_before_polls_that_are_worth_less(client: ConnectionClient) -> None:
    client.limiter.call_when_open(poll_worth(5.0), lambda: pytest.fail("it is not its turn"))
    await asyncio.wait_for(client.take_turn("outputs", lambda _now: 6.0), 5.0)
    assert client.limiter.in_flight == 1


async def test_an_output_that_gives_up_waiting_leaves_its_turn_to_others(client: ConnectionClient) -> None:
    client.limiter.call_when_open(poll_worth(5.0), lambda: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.take_turn("outputs", lambda _now: 1.0)
    assert client.limiter.admit([poll_worth(1.0)], now=1002.0, is_scarce=True)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0)


async def test_an_event_does_not_wait_longer_for_its_output_than_it_may(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("instabase", scenario=Scenario(duration_s=0.0, output=DEFAULT_OUTPUT))
    settings = connection(sandbox, "instabase", requests_per_second=0.2, output_wait_s=0.5)
    async with open_poller(database, settings) as poller:
        run = await register(database, theirs, connection="instabase-1", provider="instabase")
        after = await finish(poller, database, run.id)
    assert (after.status, after.output) == (RunStatus.SUCCEEDED, None)
    assert len(sandbox.requests) == 1


async def test_a_request_that_waits_for_its_turn_can_be_cancelled_at_the_instant_at_which_it_is_woken(
    client: ConnectionClient, clock: ManualClock
) -> None:
    """Ending a poller does both: it passes its turn on, and cancels what waits."""
    client.limiter.rate_limit.pause(clock.monotonic(), 60.0)
    waiting = asyncio.create_task(client.take_turn("outputs", lambda _now: 1.0))
    for _ in range(3):
        await asyncio.sleep(0)
    client.limiter.give_up()
    waiting.cancel()
    await asyncio.wait([waiting], timeout=60)
    assert waiting.cancelled()


async def test_a_refused_key_makes_the_connection_failing_and_stops_the_hammering(
    database: Database, sandbox: Sandbox
) -> None:
    scenario = Scenario(duration_s=0.1, outcome="succeeded")
    settings = connection(sandbox, "dify")
    async with open_poller(database, replace(settings, api_key=settings.api_key.__class__("wrong"))) as poller:
        for _ in range(20):
            await register(database, sandbox.add_run("dify", scenario=scenario), connection="dify-1")

        async def is_failing() -> bool:
            health = await database.read(connections.list_health)
            return bool(health) and health["dify-1"].health is ConnectionHealth.FAILING

        await work(poller.run_pass, poller.bell, is_failing)
        made = len(sandbox.requests)
        for _ in range(20):
            await poller.run_pass()
        assert len(sandbox.requests) == made
        assert poller.client.opens_in_s(time.monotonic()) > 1
    told_types = [e.type for e in await database.read(lambda tx: events.list_feed(tx, after=0, limit=50))]
    assert told_types == [EventType.CONNECTION_FAILING]


@pytest.mark.slow
async def test_a_failing_connection_is_reported_although_the_database_could_not_be_written_at_first(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.polling.poll_results.STORE_RETRY_S", 0.2)
    sandbox.fail("dify", "401", count=1)
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        await register(database, sandbox.add_run("dify", scenario=Scenario(duration_s=None)), connection="dify-1")
        change_health, failures = connections.change_health, [StoreUnavailable("full")]

        def fail_once(*args, **more):
            if failures:
                raise failures.pop()
            return change_health(*args, **more)

        monkeypatch.setattr(connections, "change_health", fail_once)

        async def is_told() -> bool:
            return bool(await database.read(lambda tx: events.list_feed(tx, after=0, limit=50)))

        await work(poller.run_pass, poller.bell, is_told)
    assert not failures


async def test_changes_of_health_are_recorded_one_after_the_other(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL a slow first write would otherwise overtake the second, and the connection stay failing."""
    write, waits, is_open = database.write, [True], asyncio.Event()

    async def write_slowly_at_first(work: Callable[[Tx], Any]) -> Any:
        if waits and waits.pop():
            await is_open.wait()
        return await write(work)

    async with open_poller(database, connection(sandbox, "dify")) as poller:
        monkeypatch.setattr(database, "write", write_slowly_at_first)
        now = time.monotonic()
        poller.client.judge(PollFailed(FailureKind.UNAUTHORIZED, "refused", 401), sent_at=now, now=now, runs_held=1)
        first = asyncio.create_task(poller.results.flush_health(now))
        while waits:
            await asyncio.sleep(0)
        poller.client.judge(Observed(seen("running")), sent_at=now, now=now, runs_held=1)
        await poller.results.flush_health(now)
        is_open.set()
        await first
        health = await database.read(connections.list_health)
        assert health["dify-1"].health is ConnectionHealth.OK
        feed = await database.read(lambda tx: events.list_feed(tx, after=0, limit=9))
        assert [event.type for event in feed] == [EventType.CONNECTION_FAILING, EventType.CONNECTION_RECOVERED]


@pytest.mark.slow
async def test_what_goes_wrong_in_telling_a_health_holds_up_no_run(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.fail("dify", "401", count=1)
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        run = await register(database, sandbox.add_run("dify", scenario=Scenario(duration_s=0.1)), connection="dify-1")

        def fail(*_args, **_more):
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(connections, "change_health", fail)

        async def is_failing() -> bool:
            return poller.client.health is ConnectionHealth.FAILING

        await work(poller.run_pass, poller.bell, is_failing)
        poller.client.limiter.rate_limit.end_pause(0.0)
        assert (await finish(poller, database, run.id)).settled


async def test_a_connection_recovers_with_the_first_answer(database: Database, sandbox: Sandbox) -> None:
    theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=0.1, outcome="succeeded"))
    sandbox.fail("dify", "401", count=1)
    async with open_poller(database, connection(sandbox, "dify")) as poller:
        run = await register(database, theirs, connection="dify-1")

        async def failing() -> bool:
            return poller.client.health is ConnectionHealth.FAILING

        await work(poller.run_pass, poller.bell, failing)
        poller.client.limiter.rate_limit.end_pause(0.0)  # the pause before the probe, spared
        await finish(poller, database, run.id)
    told_types = [e.type.value for e in await database.read(lambda tx: events.list_feed(tx, after=0, limit=50))]
    assert told_types[:2] == ["connection.failing", "connection.recovered"]
    assert told_types[-1] == "run.finished"


async def test_after_an_outage_everybody_is_asked_at_once_not_when_the_own_back_off_ends(
    database: Database, sandbox: Sandbox
) -> None:
    """Failures of all of them together say nothing about a single run."""
    async with open_poller(database, connection(sandbox, "dibby")) as poller:
        made = [sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)) for _ in range(8)]
        first, *others = [await register(database, i, connection="dibby-1", provider="dibby") for i in made]
        limit, now = poller.client.limiter.rate_limit, time.monotonic()
        limit.pause(now, 0.2)
        await poller.run_pass()
        assert len(poller.schedule) == 8
        refused = PollFailed(FailureKind.CONNECT, "connection refused")
        for tracked in poller.schedule.all():
            tracked.note_failure(refused, datetime.now(UTC), now)
            poller.schedule.postpone(tracked, now + 60.0)
        for _ in range(FAILURES_MIN):
            poller.client.judge(refused, sent_at=now, now=now, runs_held=8)
        limit.end_pause(now)
        poller.leases.poll_now(first.id)
        assert {(await finish(poller, database, run.id)).status for run in others} == {RunStatus.SUCCEEDED}
