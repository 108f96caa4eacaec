"""A poller or deliverer at work on a real database and real servers, its passes called by the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from bridge.cluster.lease_guard import LeaseGuard
from bridge.daemon_control import DaemonControl
from bridge.domain.clock import Clock, SystemClock
from bridge.domain.connection import CadenceSettings, Connection, ConnectionHealth
from bridge.domain.leased_delivery import DeliveryOffer
from bridge.domain.limits.fair_limiter import FairRateLimiter
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.duration_learner import LearnedState
from bridge.polling.poller import Poller
from bridge.polling.services import PollingServices
from bridge.providers.http import ProviderSessions
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics
from bridge.sandbox import Sandbox
from bridge.store import events, runs
from bridge.store.database import Database
from bridge.store.transaction import CommitSignals
from tests.support.watching import NODE

QUICK = CadenceSettings(min_interval_s=0.02, max_interval_s=0.05)


def connection(sandbox: Sandbox, provider: str, **more: Any) -> Connection:
    """A connection to the sandbox that polls very often, so that tests are quick."""
    values: dict[str, Any] = {
        "name": f"{provider}-1",
        "provider": provider,
        "base_url": sandbox.url(provider),
        "api_key": Secret("sandbox-key"),
        "requests_per_second": 500.0,
        "cadence": QUICK,
    }
    return Connection(**(values | more))


@asynccontextmanager
async def open_poller(
    database: Database,
    settings: Connection,
    *,
    clock: Clock | None = None,
    node: str = NODE,
    limiter: FairRateLimiter | None = None,
    metrics: Metrics | None = None,
    offer: DeliveryOffer | None = None,
) -> AsyncIterator[Poller]:
    """The poller of one connection, as the daemon builds it; `limiter`: that of another one of the same credential."""
    clock = clock or SystemClock()
    async with ProviderSessions() as sessions:
        client = ConnectionClient(settings, sessions, health=ConnectionHealth.UNKNOWN, limiter=limiter, clock=clock)
        services = PollingServices(database, clock, metrics or Metrics(), LeaseGuard(clock), offer_of=lambda: offer)
        learned = await LearnedState.load(database, settings.name, client.limiter.rate_limit)
        poller = Poller(client, services, learned=learned, node=node)

        def hear(said: CommitSignals) -> None:
            for run in said.leased_runs:
                poller.leases.take(run)
            if said.connections_due:
                poller.leases.expect()

        database.listeners.append(hear)
        yield poller
        await poller.drain()


def note_sends(poller: Poller) -> list[float]:
    """When the poller sends requests, by its own monotonic clock: when they arrive, tells more of the machine."""
    sends: list[float] = []
    send = poller.client.limiter.send

    def noting(now: float, tenant: str | None = None) -> None:
        sends.append(now)
        send(now, tenant)

    poller.client.limiter.send = noting  # type: ignore[method-assign]
    return sends


async def work(
    run_pass: Callable[[], Awaitable[float]],
    bell: Bell,
    until: Callable[[], Awaitable[Any]],
    *,
    timeout_s: float = 60.0,
) -> Any:
    """Repeat the pass, resting as it says, until `until` answers something true; that answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        rest_s = await run_pass()
        answer = await until()
        if answer:
            return answer
        assert time.monotonic() < deadline, "it did not happen in time"
        if rest_s > 0:
            await bell.wait(min(rest_s, 0.05))
        else:
            await asyncio.sleep(0)


def next_poll_shown(database: Database, poller: Poller, run: runs.Run) -> tuple[datetime, str | None]:
    """When and why the run is polled next, as the API shows it."""
    live = DaemonControl(database, SystemClock(), {run.connection: poller}, Metrics()).live(run)
    assert live is not None
    assert live.next_poll_at is not None
    return live.next_poll_at, live.reason


async def event_types(database: Database, run_id: str) -> list[str]:
    """The types of a run's events, in order."""
    return [event.type.value for event in await database.read(lambda tx: events.list_run_events(tx, run_id))]


async def settled(database: Database, run_id: str) -> runs.Run | None:
    """The run if it is settled."""
    run = await database.read(lambda tx: runs.get_run(tx, run_id))
    return run if run is not None and run.settled else None


async def reach(poller: Poller, database: Database, run_id: str, status: RunStatus) -> None:
    """Work until the run is recorded in this status, and its poll has been dealt with."""

    async def is_there() -> bool:
        run = await database.read(lambda tx: runs.get_run(tx, run_id))
        tracked = poller.schedule.get(run_id)
        return run is not None and run.status is status and tracked is not None and not tracked.is_in_flight

    await work(poller.run_pass, poller.bell, is_there)


async def finish(poller: Poller, database: Database, run_id: str) -> runs.Run:
    """The run once it is settled and the poller has done with it, its counting included."""

    async def is_over() -> runs.Run | None:
        run = await settled(database, run_id)
        return run if poller.schedule.get(run_id) is None else None

    run = await work(poller.run_pass, poller.bell, is_over)
    assert isinstance(run, runs.Run)
    return run
