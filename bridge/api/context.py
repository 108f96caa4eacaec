"""What every handler gets: the door (what it may ask) and the call (what was asked). And what it gives: an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry

from bridge.api.ports import Bridge
from bridge.api.request_models import Checks
from bridge.domain.clock import Clock
from bridge.domain.event import encode
from bridge.domain.run import Json
from bridge.store.batching import Batcher
from bridge.store.database import Database
from bridge.store.idempotency import StoredResponse, find_responses, store_responses
from bridge.store.transaction import Tx

G_co = TypeVar("G_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers; the bytes are final."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def answer(status: int, shown: dict[str, Json]) -> Response:
    """An answer with a JSON object."""
    return Response(status, encode(shown))


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The `Idempotency-Key` of a request, and what tells whether another one is the same request."""

    key: str
    fingerprint: str


@dataclass(slots=True)
class Call(Generic[G_co]):
    """One request: `given` is its checked body or query. `is_kept`: its answer is kept for its key already."""

    request: web.Request
    given: G_co
    key: IdempotencyKey | None = None
    is_kept: bool = False

    def id(self, name: str = "id") -> str:
        """A part of the path."""
        return self.request.match_info[name]


@dataclass(slots=True)
class Door:
    """What handlers may ask. `closing` is set when the server stops, so that long answers end."""

    database: Database
    clock: Clock
    bridge: Bridge
    version: str
    registry: CollectorRegistry
    openapi: bytes = b""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    keys_in_flight: set[str] = field(default_factory=set)
    streams: int = 0
    _kept: Batcher[str, StoredResponse | None] = field(init=False)
    _groups: dict[Callable[..., list[Response]], Batcher[Any, Response]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kept = Batcher(lambda keys: self.database.read(lambda tx: find_responses(tx, keys)))

    async def find_kept(self, key: str) -> StoredResponse | None:
        """The answer kept for a key, read in one go with those that other requests wait for."""
        return await self._kept.submit(key)

    def checks(self) -> Checks:
        """What validating a request asks of the world."""
        return Checks(self.bridge, self.bridge.connections, self.clock.now())

    async def write(self, call: Call[object], work: Callable[[Tx], Response]) -> Response:
        """Run `work` in a transaction that also keeps its answer for the request's key."""

        def together(tx: Tx) -> Response:
            given = work(tx)
            keep(tx, [(call.key, given)])
            return given

        given = await self.database.write(together)
        call.is_kept = True
        return given

    async def write_grouped(
        self, call: Call[object], item: T, work: Callable[[Door, Tx, list[T]], list[Response]]
    ) -> Response:
        """As `write`, with all the requests that wait for the same `work`, a module's own function, in one go."""
        if work not in self._groups:

            def together(tx: Tx, asked: list[tuple[T, IdempotencyKey | None]]) -> list[Response]:
                given = work(self, tx, [item for item, _ in asked])
                keep(tx, [(key, one) for (_, key), one in zip(asked, given, strict=True)])
                return given

            self._groups[work] = Batcher(lambda asked: self.database.write(lambda tx: together(tx, asked)))
        given: Response = await self._groups[work].submit((item, call.key))
        call.is_kept = True
        return given

    @asynccontextmanager
    async def hint(
        self, listen: Coroutine[object, object, None]
    ) -> AsyncIterator[Callable[[], Coroutine[object, object, None]]]:
        """Listen from now on; the block looks at the database, then may wait for the hint or the server's end."""
        tasks = {asyncio.ensure_future(listen), asyncio.ensure_future(self.closing.wait())}

        async def wait() -> None:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

        try:
            yield wait
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def keep(tx: Tx, answers: Sequence[tuple[IdempotencyKey | None, Response]]) -> None:
    """Keep good answers for their keys. One that failed is not kept: its cause may be mended."""
    store_responses(
        tx,
        [
            (key.key, StoredResponse(key.fingerprint, given.status, given.body))
            for key, given in answers
            if key is not None and given.status < 300
        ],
    )
