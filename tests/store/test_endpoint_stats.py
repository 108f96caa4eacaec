"""Endpoint statistics, on both engines."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import Endpoint
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.store import attempts, deliveries, endpoint_health, endpoint_stats, events
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.endpoint_stats import NO_STATS, EndpointStats, LastAnswer, WindowStats
from bridge.store.transaction import Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import NODE, add_endpoint


async def queue(database: Database, endpoint: Endpoint, number: int = 1) -> None:
    def work(tx: Tx) -> None:
        made = [other_event(new_id("evt"), EventType.BRIDGE_PING, {}, now=tx.now) for _ in range(number)]
        events.record_events(tx, made, only=endpoint)

    await database.write(work)


async def attempt(
    database: Database, endpoint: Endpoint, outcome: Outcome, duration_ms: int, status: int | None = None
) -> None:
    """Queue one event and attempt it; a failed one is due again in an hour."""
    await queue(database, endpoint)

    def work(tx: Tx) -> None:
        (leased,) = deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint.id, limit=1)
        is_over = outcome is Outcome.DELIVERED
        state = DeliveryState.DELIVERED if is_over else DeliveryState.PENDING
        answer = PostResult(outcome, duration_ms, status, "what it said")
        again_at = None if is_over else tx.now + timedelta(hours=1)
        attempts.record_attempts(
            tx, node=NODE, results=[AttemptResult(leased.delivery, tx.now, answer, state, again_at)]
        )

    await database.write(work)


async def read(database: Database, *chosen: Endpoint) -> dict[str, EndpointStats]:
    return await database.read(lambda tx: endpoint_stats.read_stats(tx, [endpoint.id for endpoint in chosen]))


async def test_an_endpoint_without_attempts_has_no_rate_and_no_latency(database: Database) -> None:
    endpoint = await add_endpoint(database)
    assert await read(database, endpoint) == {endpoint.id: NO_STATS}
    assert NO_STATS.day.success_rate is None


async def test_attempts_are_counted_in_their_hour_and_day(database: Database, clock: ManualClock) -> None:
    endpoint, other = await add_endpoint(database), await add_endpoint(database)
    await attempt(database, endpoint, Outcome.DELIVERED, 900, 200)
    clock.advance(20 * 3600)
    for duration_ms in range(1, 20):
        await attempt(database, endpoint, Outcome.DELIVERED, duration_ms, 204)
    await attempt(database, endpoint, Outcome.INTERRUPTED, 5_000)
    clock.advance(1)
    await attempt(database, endpoint, Outcome.SERVER_ERROR, 20, 503)
    await attempt(database, other, Outcome.TIMEOUT, 15_000)
    stats = (await read(database, endpoint, other))[endpoint.id]
    assert stats.hour == WindowStats(delivered=19, failed=1, p50_ms=10, p95_ms=19)
    assert stats.hour.success_rate == 0.95
    assert stats.day == WindowStats(delivered=20, failed=1, p50_ms=11, p95_ms=20)
    assert stats.last_answer == LastAnswer(clock.now(), Outcome.SERVER_ERROR, 503, "what it said")
    assert stats.sampled_since is None
    clock.advance(5 * 3600)
    later = (await read(database, endpoint))[endpoint.id]
    assert (later.hour, later.day.delivered) == (WindowStats(), 19)


async def test_what_is_pending_is_counted_and_the_longest_due_is_named(database: Database, clock: ManualClock) -> None:
    endpoint, other = await add_endpoint(database), await add_endpoint(database)
    await queue(database, other)
    clock.advance(60)
    await attempt(database, endpoint, Outcome.CONNECT, 3)
    assert (await read(database, endpoint))[endpoint.id].oldest_due_at is None, "its retry is due in an hour"
    await queue(database, endpoint, 2)
    clock.advance(60)
    found = await read(database, endpoint, other)
    assert (found[endpoint.id].pending, found[endpoint.id].oldest_due_at) == (3, START + timedelta(seconds=60))
    assert (found[other.id].pending, found[other.id].oldest_due_at) == (1, START)


async def test_a_quiet_endpoint_beside_a_busy_one_keeps_its_statistics(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest attempts of all are then the busy one's."""
    monkeypatch.setattr(endpoint_stats, "NEWEST_ATTEMPTS", 2)
    monkeypatch.setattr(endpoint_stats, "NEWEST_DELIVERIES", 6)
    quiet, busy = await add_endpoint(database), await add_endpoint(database)
    await attempt(database, quiet, Outcome.GONE, 7, 410)
    for _ in range(4):
        await attempt(database, busy, Outcome.DELIVERED, 1, 200)
    found = await read(database, quiet, busy)
    assert (found[quiet.id].day.failed, found[quiet.id].sampled_since) == (1, None)
    assert (found[busy.id].day.delivered, found[busy.id].sampled_since) == (3, START), "says that it is a sample"


async def test_an_endpoint_with_a_backlog_keeps_its_statistics(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest deliveries have no attempt yet."""
    monkeypatch.setattr(endpoint_stats, "NEWEST_DELIVERIES", 3)
    endpoint = await add_endpoint(database)
    await attempt(database, endpoint, Outcome.DELIVERED, 1, 200)
    await queue(database, endpoint, 5)
    stats = (await read(database, endpoint))[endpoint.id]
    assert (stats.day.delivered, stats.pending, stats.sampled_since) == (1, 5, None)


async def test_the_newest_failure_of_each_endpoint_with_retries_is_read(database: Database, clock: ManualClock) -> None:
    """By its retries: what has not been tried yet, and what was replayed, says nothing."""
    flapping, unsigned, failing, good = [await add_endpoint(database) for _ in range(4)]
    await attempt(database, failing, Outcome.TLS, 3)
    clock.advance(60)
    await attempt(database, failing, Outcome.CLIENT_ERROR, 3, 403)
    await database.write(
        lambda tx: endpoint_health.apply_result(
            tx, failing.id, PostResult(Outcome.CLIENT_ERROR, duration_ms=3, status=403)
        )
    )
    await attempt(database, unsigned, Outcome.UNSIGNED, 0)
    await attempt(database, flapping, Outcome.SERVER_ERROR, 3, 500)
    await attempt(database, good, Outcome.DELIVERED, 3, 204)
    await queue(database, failing, 3)
    found = await database.read(endpoint_stats.read_last_failures)
    assert {endpoint_id: (each.outcome, each.status) for endpoint_id, each in found.items()} == {
        failing.id: (Outcome.CLIENT_ERROR, 403),
        unsigned.id: (Outcome.UNSIGNED, None),
        flapping.id: (Outcome.SERVER_ERROR, 500),
    }
    assert next(iter(found)) == failing.id, "of many, those that accept nothing are read"
    assert found[failing.id].at == clock.now()
