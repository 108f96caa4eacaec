"""The values that handlers work with: `RequestContext` and `Request` in, `Response` out."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Self, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry

from bridge.api.authentication import Authentication, Rules, WrongTries
from bridge.api.counts import CountKeeper
from bridge.api.ports import Bridge
from bridge.api.problem import problem_of
from bridge.api.request_models import Checks
from bridge.api.response_models import Shown
from bridge.domain.clock import Clock
from bridge.domain.errors import BridgeError, NotFound, StartUnknown
from bridge.domain.frozen import frozen
from bridge.store.batching import Batcher, GroupedWrites
from bridge.store.database import Database
from bridge.store.idempotency import StoredResponse, find_responses, forget_response, replace_response, store_responses
from bridge.store.transaction import Tx

OTHERS_SHARE: Final = 2.0  # seconds for others after each second of a batch …
REST_MAX_S: Final = 1.0  # … but no longer than this
BUSY_S, BUSY_SHARE = 0.002, 0.5  # the process is busy if it uses this share of a core over this many seconds
LATE_S: Final = 0.005
G_co = TypeVar("G_co", covariant=True)
T = TypeVar("T")
_NOT_RECORDED: Final = (
    "a request with this Idempotency-Key asked the provider to start a run, and its outcome is not recorded: it is under "
    "way at another node, or the daemon ended in between; ask again in a minute, or look at the provider, and register "
    "a run that did start with its provider_run_id"
)


@frozen
class Response:
    """A handler's result; the bytes are final. `next_cursor` is where a list goes on; None on its last page."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    next_cursor: str | None = None

    @classmethod
    def of(cls, status: int, body: Shown) -> Self:
        """A response with a JSON object."""
        return cls(status, body.to_bytes(), next_cursor=body.__dict__.get("next_cursor"))


def present(found: T | None, what: str) -> T:
    """`found`, unless it is None: NotFound, which names `what`."""
    if found is None:
        raise NotFound(f"there is no {what}")
    return found


def etag_of(body: bytes) -> str:
    """A weak tag: the body may be sent compressed or not."""
    return f'W/"{hashlib.sha256(body).hexdigest()[:16]}"'


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The `Idempotency-Key` of a request; an equal `fingerprint` means the same request.

    `is_begun`: a response is stored already, for the case that this request never ends.
    """

    key: str
    fingerprint: str
    is_begun: bool = False


@dataclass(slots=True)
class Request(Generic[G_co]):
    """One request. `data` is its checked body or query; `is_kept` means that its key already keeps its response."""

    http: web.Request
    data: G_co
    key: IdempotencyKey | None = None
    is_kept: bool = False

    def id(self, name: str = "id") -> str:
        """A part of the path."""
        return self.http.match_info[name]


class BatchTurns:
    """Lets batches take turns, and leaves most of a busy machine to what was registered before them.

    Checking and writing a thousand runs takes a tenth of a second, in which hardly anything is polled or delivered. The
    next batch waits `OTHERS_SHARE` times as long as that, or until nothing older is under way or this process is no
    longer short of a core.
    """

    def __init__(
        self,
        has_older_work: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """`cpu_s`: the CPU that this process has used, in seconds."""
        self._has_older_work, self._clock, self._cpu_s = has_older_work, clock, cpu_s
        self._lock = asyncio.Lock()
        self._opens_at = -math.inf

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the `async with` block."""
        async with self._lock:
            while self._has_older_work() and (left_s := self._opens_at - self._clock()) > 0:
                if not await self._is_busy(min(left_s, BUSY_S)):
                    break
            began_at = self._clock()
            try:
                yield
            finally:
                now = self._clock()
                self._opens_at = now + min(OTHERS_SHARE * (now - began_at), REST_MAX_S)

    async def _is_busy(self, for_s: float) -> bool:
        """Whether this process uses a whole core, or waits for one: then the loop wakes late."""
        began_at, cpu_s = self._clock(), self._cpu_s()
        await asyncio.sleep(for_s)
        took_s = self._clock() - began_at
        return took_s > for_s + LATE_S or self._cpu_s() - cpu_s > BUSY_SHARE * took_s


@dataclass(slots=True)
class RequestContext:
    """Everything that handlers may use. `closing` is set when the server stops, so that long responses end."""

    database: Database
    clock: Clock
    bridge: Bridge
    version: str
    registry: CollectorRegistry
    rules: Rules
    authentication: Authentication
    wrong_tries: WrongTries
    openapi: Callable[[], bytes] = bytes  # made when it is first asked for, in a twentieth of a second
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    keys_in_flight: set[str] = field(default_factory=set)
    batches: BatchTurns = field(init=False)
    streams: int = 0
    counts: CountKeeper = field(init=False)
    _kept: Batcher[str, StoredResponse | None] = field(init=False)
    _groups: dict[Callable[..., list[Response]], GroupedWrites[Any, Response]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batches = BatchTurns(self.bridge.has_work_under_way)
        self.counts = CountKeeper(self.database, self.clock)
        self._kept = Batcher(lambda keys: self.database.read(lambda tx: find_responses(tx, keys)))

    async def find_kept(self, key: str) -> StoredResponse | None:
        """The response kept for a key, read in one batch with those that other requests wait for."""
        return await self._kept.submit(key)

    def checks(self) -> Checks:
        """The context that request models are validated with."""
        return Checks(self.bridge, self.bridge.connections, self.clock)

    async def write(self, request: Request[object], work: Callable[[Tx], Response]) -> Response:
        """Run `work` in a transaction that also keeps its response for the request's key."""

        def work_and_keep(tx: Tx) -> Response:
            response = work(tx)
            keep(tx, [(request.key, response)])
            return response

        response = await self.database.write_plain(work_and_keep)
        request.is_kept = True
        return response

    async def write_grouped(
        self, request: Request[object], item: T, work: Callable[[RequestContext, Tx, list[T]], list[Response]]
    ) -> Response:
        """As `write`, in one transaction with all requests that wait for the same module-level function `work`."""
        if work not in self._groups:

            def work_and_keep(tx: Tx, asked: list[tuple[T, IdempotencyKey | None]]) -> list[Response]:
                responses = work(self, tx, [item for item, _ in asked])
                keep(tx, [(key, one) for (_, key), one in zip(asked, responses, strict=True)])
                return responses

            self._groups[work] = self.database.grouped(work_and_keep)
        response: Response = await self._groups[work].submit((item, request.key))
        request.is_kept = True
        return response

    async def start_once(self, request: Request[Any], start: Callable[[], Coroutine[object, object, T]]) -> T:
        """Await `start`, which makes a provider begin a run, once for the request's key.

        Before, the key is given the answer for the case that this daemon ends in between: it is not known whether a run
        began. A second node finds it, or cannot store its own, and starts nothing.
        """
        key = request.key
        if key is None:
            return await start()
        unknown = problem_of(StartUnknown(_NOT_RECORDED))
        stored = StoredResponse(key.fingerprint, unknown.status, unknown.to_bytes())
        await self.database.write(lambda tx: store_responses(tx, [(key.key, stored)]))
        request.key = replace(key, is_begun=True)
        try:
            return await start()
        except StartUnknown:
            raise
        except BridgeError:  # no run began; the same key may try again
            await self.database.write(lambda tx: forget_response(tx, key.key))
            raise

    @asynccontextmanager
    async def listening(
        self, hint: Coroutine[object, object, None]
    ) -> AsyncIterator[Callable[[], Coroutine[object, object, None]]]:
        """Await `hint` beside the block, which reads the database and may then wait for the hint or the server's end.

        A change between the read and the wait is not missed: the hint was awaited before.
        """
        tasks = {asyncio.ensure_future(hint), asyncio.ensure_future(self.closing.wait())}

        async def wait() -> None:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

        try:
            yield wait
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def keep(tx: Tx, responses: Sequence[tuple[IdempotencyKey | None, Response]]) -> None:
    """Keep good responses for their keys. A failed one is not kept: its cause may be gone next time."""
    good = [
        (key, StoredResponse(key.fingerprint, response.status, response.body))
        for key, response in responses
        if key is not None and response.status < 300
    ]
    if good:
        store_responses(tx, [(key.key, stored) for key, stored in good if not key.is_begun])
    for key, stored in good:
        if key.is_begun:
            replace_response(tx, key.key, stored)
