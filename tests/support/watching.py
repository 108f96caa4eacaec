"""Short ways to say what a test is about: an open database, a registered run, what a provider shows of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from bridge.domain.clock import Clock, SystemClock
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.event import EventType
from bridge.domain.ids import new_id
from bridge.domain.observation import Observation
from bridge.domain.run import CadenceOverrides, Run, RunStatus
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.transition import observe
from bridge.store import endpoints, nodes, runs
from bridge.store.database import Database
from bridge.store.runs import NewRun

NODE = "node_1"
T = TypeVar("T")


@asynccontextmanager
async def connected(url: str, clock: Clock | None = None) -> AsyncIterator[Database]:
    """An open database without a node."""
    database = Database(url, clock or SystemClock())
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def open_database(url: str, clock: Clock | None = None) -> AsyncIterator[Database]:
    """An open database with one node signed on."""
    async with connected(url, clock) as database:
        await database.write(lambda tx: nodes.join(tx, node=NODE, host="here", pid=1, version="0"))
        yield database


def new_run(provider_run_id: str = "abc", *, connection: str = "dify-prod", **more: Any) -> NewRun:
    """A registration."""
    values: dict[str, Any] = {
        "id": new_id("run"),
        "connection": connection,
        "provider": "dify",
        "provider_run_id": provider_run_id,
        "workflow_id": None,
        "metadata": {},
        "tags": (),
        "cadence": CadenceOverrides(),
        "deadline_at": None,
        "deadline_is_fixed": False,
    }
    return NewRun(**(values | more))


def in_parts(items: Sequence[T], size: int = 100) -> Iterator[Sequence[T]]:
    """A part for each transaction: one that takes too long, as on a busy machine, is ended."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))


async def register(database: Database, provider_run_id: str = "abc", **more: Any) -> Run:
    """A run that is being watched."""
    return (await database.write(lambda tx: runs.insert_runs(tx, [new_run(provider_run_id, **more)])))[0]


async def add_endpoint(
    database: Database, url: str = "https://app.example.org/hooks", *, secret: str | None = None, **more: Any
) -> Endpoint:
    """A subscriber made over the API."""
    endpoint = Endpoint(id=new_id("ep"), url=url, source=more.pop("source", EndpointSource.API), **more)
    return await database.write(lambda tx: endpoints.insert_endpoint(tx, endpoint, Secret(secret or new_secret())))


def seen(status: RunStatus | str, word: str | None = None, **more: Any) -> Observation:
    """The observation of one poll."""
    return Observation(RunStatus(status), word or str(status), **more)


async def record(
    database: Database, run: Run, status: RunStatus | str, *, node: str | None = None, **more: Any
) -> Run | None:
    """Let the bridge see the run in `status`; None if the store did not take it."""
    wants = bool(more.pop("wants_progress", False))

    def work(tx: Any) -> Run | None:
        decision = observe(run, seen(status, **more), now=tx.now, wants_progress=wants)
        assert decision is not None
        return runs.record_decision(tx, run, decision, node=node, keep_lease=node is not None)

    return await database.write(work)


def only(*types: str) -> tuple[EventType, ...]:
    """The `events` of an endpoint."""
    return tuple(EventType(name) for name in types)


def at(text: str) -> datetime:
    """An aware instant."""
    return datetime.fromisoformat(text)
