"""Whether a dead and a very slow receiver delay the others: ten receivers, HTTP, the deliverer on SQLite.

Eight receivers answer at once and are measured. In every other round two more do so too; in the rounds between, one of
them refuses connections and one takes ten seconds per response. Events are recorded at a steady rate, each for every
endpoint. Measured: the time from recording an event to its arrival at one of the eight, without the first second of a
round. The ratio is that of the 95th percentiles over all rounds of a kind. Sender and receivers share one process: on
a busy machine both kinds of rounds are slow, and the ratio means little.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from bridge.delivery.deliverer import Deliverer, DeliverySettings
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
from bridge.domain.clock import SystemClock
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.runtime.loop import Loop
from bridge.runtime.metrics import Metrics
from bridge.sandbox import Receiver, Reply
from bridge.store import endpoints, events, nodes
from bridge.store.database import Database

HEALTHY = 8
SLOW_S = 10.0
LEFT_OUT = timedelta(seconds=1)
REFUSING = "http://127.0.0.1:1/dead"


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds from recording to arrival at the healthy receivers, and milliseconds of CPU per event."""

    waits: list[float]
    expected: int
    cpu_ms: float

    def percentile(self, percent: int) -> float:
        """A percentile of `waits`."""
        return sorted(self.waits)[min(len(self.waits) - 1, len(self.waits) * percent // 100)]


@asynccontextmanager
async def deliverer_on(folder: str) -> AsyncIterator[Database]:
    """A database with a running deliverer."""
    clock = SystemClock()
    database = Database(f"sqlite:///{Path(folder) / 'runbridge.db'}", clock)
    await database.open()
    await database.write(lambda tx: nodes.join(tx, node="node_1", host="here", pid=1, version="0"))
    sender = Sender({trust: AddressPolicy(trust, (AllowRule.parse("127.0.0.0/8"),)) for trust in Trust})
    worker = Deliverer(
        database=database,
        clock=clock,
        node="node_1",
        sender=sender,
        metrics=Metrics(),
        settings=DeliverySettings(),
        file_secrets={},
    )
    database.listeners.append(lambda said: worker.bell.ring() if said.deliveries_due else None)
    loop = asyncio.create_task(Loop("deliverer", worker.run_pass, worker.bell, lambda _name: None).run())
    try:
        yield database
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await worker.drain(0)
        await sender.close()
        await database.close()


async def add(database: Database, url: str) -> None:
    endpoint = Endpoint(id=new_id("ep"), url=url, source=EndpointSource.API)
    await database.write(lambda tx: endpoints.insert_endpoint(tx, endpoint, Secret(new_secret())))


async def record(database: Database, count: int, rate: float) -> None:
    """Record events at a steady rate."""
    start = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        await database.write(
            lambda tx: events.record_events(
                tx,
                [other_event(new_id("evt"), EventType.CONNECTION_RECOVERED, {"connection": {"name": "x"}}, now=tx.now)],
            )
        )


async def play(*, with_bad: bool, seconds: float, rate: float) -> Round:
    """Play one round on a new database."""
    count = int(seconds * rate)
    cpu_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        async with Receiver() as receiver, deliverer_on(folder) as database:
            receiver.always(Reply(delay_s=SLOW_S), path="/slow")
            for number in range(HEALTHY):
                await add(database, receiver.url(f"/healthy/{number}"))
            good = receiver.url("/others/1"), receiver.url("/others/2")
            for url in (REFUSING, receiver.url("/slow")) if with_bad else good:
                await add(database, url)
            await record(database, count, rate)
            with contextlib.suppress(TimeoutError):
                await receiver.wait_for(lambda all_: len(healthy(all_)) == count * HEALTHY, 5)
            recorded = {
                e.id: e.created_at for e in await database.read(lambda tx: events.list_feed(tx, after=0, limit=count))
            }
            start = min(recorded.values()) + LEFT_OUT
            counted = {event_id: at for event_id, at in recorded.items() if at >= start}
            waits = [
                (one.at - counted[one.id]).total_seconds() * 1000
                for one in healthy(receiver.received)
                if one.id in counted
            ]
    return Round(waits, len(counted) * HEALTHY, (time.process_time() - cpu_s) * 1000 / count)


def healthy(received) -> list:
    return [one for one in received if one.path.startswith("/healthy")]


async def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--rate", type=float, default=10.0, help="events per second")
    parser.add_argument("--rounds", type=int, default=4, help="of each kind")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(
        f"{arguments.rate:g} events/s to {HEALTHY} healthy receivers, {arguments.rounds} rounds of {arguments.seconds:g} s each"
    )
    await play(with_bad=True, seconds=2, rate=arguments.rate)  # warms up imports, the disk and the connection code
    found: dict[bool, list[Round]] = {False: [], True: []}
    for number in range(2 * arguments.rounds):
        with_bad = bool(number % 2)
        one = await play(with_bad=with_bad, seconds=arguments.seconds, rate=arguments.rate)
        found[with_bad].append(one)
        kind = "two are bad" if with_bad else "all ten are good"
        print(
            f"{kind:20} p50 {one.percentile(50):6.1f} ms  p95 {one.percentile(95):6.1f} ms  "
            f"arrived {len(one.waits)}/{one.expected}  CPU {one.cpu_ms:.1f} ms per event"
        )
    alone, both = (pooled(found[with_bad]) for with_bad in (False, True))
    p95 = (alone.percentile(95), both.percentile(95))
    print(f"p95 of the eight: {p95[0]:.1f} ms, {p95[1]:.1f} ms with the two; ratio {p95[1] / p95[0]:.2f}")
    print(f"CPU per event: {alone.cpu_ms:.1f} ms and {both.cpu_ms:.1f} ms; ratio {both.cpu_ms / alone.cpu_ms:.2f}")


def pooled(rounds: list[Round]) -> Round:
    """All rounds as one."""
    waits = [wait for one in rounds for wait in one.waits]
    return Round(waits, sum(one.expected for one in rounds), sum(one.cpu_ms for one in rounds) / len(rounds))


if __name__ == "__main__":
    asyncio.run(main())
