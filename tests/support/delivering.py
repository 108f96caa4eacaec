"""A deliverer at work on a real database and a real receiver, on the machine's clock or on one that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from bridge.cluster.lease_guard import LeaseGuard
from bridge.delivery.deliverer import Deliverer, DeliverySettings
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
from bridge.domain.clock import Clock, SystemClock
from bridge.domain.delivery import Attempt, Delivery, DeliveryState, RetrySchedule
from bridge.domain.endpoint import Endpoint
from bridge.domain.secret import Secret
from bridge.runtime.metrics import Metrics
from bridge.store import attempts, deliveries, endpoints
from bridge.store.database import Database
from bridge.store.deliveries import DeliveryFilter
from tests.support.manual_clock import ManualClock
from tests.support.watching import NODE

LOCAL = (AllowRule.parse("127.0.0.0/8"),)
QUICK = RetrySchedule((0.05, 0.05, 0.05), jitter=0.0)
NEVER_AGAIN = RetrySchedule(())
IN_FIVE_MINUTES = RetrySchedule((300.0,) * 9, jitter=0.0)


@asynccontextmanager
async def open_deliverer(
    database: Database,
    *,
    schedule: RetrySchedule = QUICK,
    timeout_s: float = 20.0,
    allow: tuple[AllowRule, ...] = LOCAL,
    file_secrets: dict[str, Secret] | None = None,
    slots: int = 64,
    slots_per_endpoint: int = 8,
    clock: Clock | None = None,
    metrics: Metrics | None = None,
    lease_guard: LeaseGuard | None = None,
) -> AsyncIterator[Deliverer]:
    """A deliverer that may post to loopback addresses."""
    sender = Sender({trust: AddressPolicy(trust, allow) for trust in Trust}, timeout_s=timeout_s)
    deliverer = Deliverer(
        database=database,
        clock=clock or SystemClock(),
        node=NODE,
        sender=sender,
        metrics=metrics or Metrics(),
        settings=DeliverySettings(schedule, slots, slots_per_endpoint),
        file_secrets={} if file_secrets is None else file_secrets,
        lease_guard=lease_guard,
    )
    database.listeners.append(deliverer.follow_commit)
    try:
        yield deliverer
        await deliverer.drain(0.1)
    finally:
        await sender.close()


async def all_deliveries(database: Database, **wanted: str) -> list[Delivery]:
    """Every delivery, oldest first."""
    chosen = DeliveryFilter(**wanted)
    found = await database.read(lambda tx: deliveries.list_deliveries(tx, chosen, limit=10_000, before=None))
    return found[::-1]


async def attempts_of(database: Database, delivery: Delivery) -> list[Attempt]:
    """Every attempt of one delivery."""
    return (await database.read(lambda tx: attempts.list_attempts(tx, [delivery.id]))).get(delivery.id, [])


async def endpoint_now(database: Database, endpoint: Endpoint) -> Endpoint:
    """The endpoint as it stands."""
    found = await database.read(lambda tx: endpoints.get_endpoint(tx, endpoint.id))
    assert found is not None
    return found


def none_pending(database: Database) -> Callable[[], Awaitable[list[Delivery]]]:
    """A condition: everything is settled; the deliveries."""

    async def check() -> list[Delivery]:
        found = await all_deliveries(database)
        return found if found and all(d.state is not DeliveryState.PENDING for d in found) else []

    return check


async def deliver_all(deliverer: Deliverer, database: Database) -> list[Delivery]:
    """Work until everything is settled."""
    from tests.support.workbench import work  # it needs the poller's room, which the simulations here do not

    found = await work(deliverer.run_pass, deliverer.bell, none_pending(database))
    assert isinstance(found, list)
    return found


async def start_due(deliverer: Deliverer) -> float:
    """Start all that may go, and let what was started end; seconds until something else may go."""
    while True:
        rest_s = await deliverer.run_pass()
        if rest_s == 0:
            continue
        has_rung = False
        async with asyncio.timeout(60):
            while deliverer.in_flight and not has_rung:
                has_rung = await deliverer.bell.wait(0.001)
        if not has_rung and not await deliverer.bell.wait(0):
            return rest_s


async def live_until(deliverer: Deliverer, clock: ManualClock, until: datetime) -> None:
    """Let time pass on the clock, from one thing that is due to the next."""
    while (left_s := (until - clock.now()).total_seconds()) > 0:
        clock.advance(min(await start_due(deliverer), left_s))
    await start_due(deliverer)
