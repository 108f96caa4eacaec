"""The deliverer: claims due deliveries endpoint by endpoint, signs, posts, judges, records.

Each endpoint has its own seats, so one that is slow or dead holds up nobody else. A POST that is cut off
because the daemon stops is not a failed attempt: its claim is given back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from bridge.domain.address import Trust
from bridge.domain.clock import Clock
from bridge.domain.delivery import Answer, Outcome, verdict
from bridge.domain.endpoint import EndpointSource
from bridge.domain.errors import StoreUnavailable
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.domain.instant import format_instant
from bridge.domain.retry import RetrySchedule
from bridge.domain.secret import Secret
from bridge.domain.signature import secret_key, signature_headers
from bridge.store import deliveries, endpoints, events
from bridge.store.database import Database
from bridge.store.deliveries import AttemptResult, Claimed
from bridge.store.transaction import Tx
from bridge.workers.loop import Bell
from bridge.workers.metrics import Metrics
from bridge.workers.sender import Sender

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How deliveries are made. Seats are POSTs at the same time, in all and to one endpoint."""

    schedule: RetrySchedule = RetrySchedule()
    seats: int = 64
    seats_per_endpoint: int = 8


class Deliverer:
    """Delivers what is due."""

    def __init__(  # noqa: PLR0913 - the floor plan of the worker
        self,
        *,
        database: Database,
        clock: Clock,
        node: str,
        sender: Sender,
        metrics: Metrics,
        settings: DeliverySettings,
        file_secrets: Mapping[str, Secret],
    ) -> None:
        self.bell = Bell()
        self.settings = settings
        self.file_secrets = file_secrets
        """Signing secrets of the endpoints in the operator's file, by id; they are never in the database."""
        self._database = database
        self._clock = clock
        self._node = node
        self._sender = sender
        self._metrics = metrics
        self._busy: dict[str, int] = {}
        self._tasks: dict[asyncio.Task[None], Claimed] = {}
        self._last_endpoint = ""
        self._is_draining = False

    async def run_pass(self) -> float:
        """Claim and start what is due as far as seats allow; seconds until something is due."""
        free = self.settings.seats - len(self._tasks)
        if self._is_draining or free <= 0:
            return math.inf  # a POST that ends rings the bell
        due = await self._database.read(deliveries.due_endpoints)
        now = self._clock.now()
        shares = self._share_seats([endpoint for endpoint, at in due.items() if at <= now], free)
        if shares:
            for claimed in await self._database.write(lambda tx: self._claim(tx, shares)):
                self._start(claimed)
        return self._rest_s(due, shares, now)

    def _claim(self, tx: Tx, shares: dict[str, int]) -> list[Claimed]:
        return [
            claimed
            for endpoint_id, limit in shares.items()
            for claimed in deliveries.claim_due(tx, node=self._node, endpoint_id=endpoint_id, limit=limit)
        ]

    def _share_seats(self, wanting: list[str], free: int) -> dict[str, int]:
        """Seats for each endpoint in turn, going on behind the one that was served last."""
        shares: dict[str, int] = {}
        in_turn = sorted(wanting, key=lambda endpoint: (endpoint <= self._last_endpoint, endpoint))
        each = max(1, free // max(1, len(in_turn)))
        for endpoint_id in in_turn:
            share = min(each, free, self.settings.seats_per_endpoint - self._busy.get(endpoint_id, 0))
            if share > 0:
                shares[endpoint_id] = share
                self._last_endpoint = endpoint_id
                free -= share
        return shares

    def _rest_s(self, due: dict[str, datetime], shares: dict[str, int], now: datetime) -> float:
        """Until the next thing is due at an endpoint with a free seat; a POST that ends rings the bell."""
        if any(self._busy.get(endpoint, 0) < self.settings.seats_per_endpoint for endpoint in shares):
            return 0.0  # it may have more that is due
        return min(
            (
                max((at - now).total_seconds(), 0.001)
                for endpoint, at in due.items()
                if self._busy.get(endpoint, 0) < self.settings.seats_per_endpoint and at > now
            ),
            default=math.inf,
        )

    # -- one POST

    def _start(self, claimed: Claimed) -> None:
        endpoint_id = claimed.endpoint.id
        self._busy[endpoint_id] = self._busy.get(endpoint_id, 0) + 1
        task = asyncio.create_task(self._deliver(claimed), name=f"deliver:{claimed.delivery.id}")
        self._tasks[task] = claimed
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        endpoint_id = self._tasks.pop(task).endpoint.id
        self._busy[endpoint_id] -= 1
        if not self._busy[endpoint_id]:
            del self._busy[endpoint_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery.crashed", endpoint=endpoint_id, exc_info=error)
        self.bell.ring()

    async def _deliver(self, claimed: Claimed) -> None:
        at = self._clock.now()
        answer = await self._post(claimed, at)
        state, again_at = verdict(
            claimed.delivery.failures, answer, now=self._clock.now(), schedule=self.settings.schedule
        )
        result = AttemptResult(claimed.delivery, at, answer, state, again_at, is_ordered=claimed.endpoint.ordered)
        await self._record(claimed, result)
        self._tell(claimed, result)

    async def _post(self, claimed: Claimed, at: datetime) -> Answer:
        endpoint, delivery = claimed.endpoint, claimed.delivery
        keys = [secret_key(secret.reveal()) for secret in self._secrets(claimed)]
        if claimed.fault is not None or not keys:
            return Answer(Outcome.UNSIGNED, 0, detail=claimed.fault or "this node has no signing secret for it")
        return await self._sender.post(
            endpoint.url,
            headers=signature_headers(keys, delivery.event_id, int(at.timestamp()), claimed.body),
            body=claimed.body,
            trust=Trust.CONFIG if endpoint.source is EndpointSource.CONFIG else Trust.API,
            custom_headers=endpoint.headers,
        )

    def _secrets(self, claimed: Claimed) -> list[Secret]:
        of_file = self.file_secrets.get(claimed.endpoint.id)
        return [of_file] if of_file is not None else [live.secret for live in claimed.secrets]

    async def _record(self, claimed: Claimed, result: AttemptResult) -> None:
        """The attempt, and with a 410 the end of the endpoint; tried again while the database cannot be written.

        Until it is recorded the claim stands, so the same POST is not made twice meanwhile.
        """

        def record(tx: Tx) -> None:
            deliveries.record_attempts(tx, node=self._node, results=[result])
            if result.answer.outcome is Outcome.GONE:
                disable(tx, claimed.endpoint.id, "its receiver answered 410 Gone")

        rest_s = 0.5
        while True:
            try:
                await self._database.write(record)
            except StoreUnavailable as error:
                log.warning("attempt.unrecorded", delivery_id=claimed.delivery.id, reason=str(error))
                await asyncio.sleep(rest_s)
                rest_s = min(rest_s * 2, 15.0)
            else:
                return

    def _tell(self, claimed: Claimed, result: AttemptResult) -> None:
        answer = result.answer
        self._metrics.attempts.labels(answer.outcome.value).inc()
        self._metrics.attempt_seconds.observe(answer.duration_ms / 1000)
        if answer.outcome is Outcome.DELIVERED and not claimed.delivery.is_manual:
            waited_s = (self._clock.now() - claimed.delivery.created_at).total_seconds()
            self._metrics.event_seconds.observe(max(0.0, waited_s))
        log.info(
            "delivery.attempted",
            delivery_id=claimed.delivery.id,
            event_id=claimed.delivery.event_id,
            endpoint=claimed.endpoint.id,
            attempt=claimed.delivery.attempts + 1,
            outcome=answer.outcome.value,
            status=answer.status,
            duration_ms=answer.duration_ms,
            detail=answer.detail,
            state=result.state.value,
            next_attempt_at=result.next_attempt_at and format_instant(result.next_attempt_at),
        )

    # -- stopping

    async def drain(self, timeout_s: float) -> None:
        """Let POSTs under way end within `timeout_s`; give back the claims of those that do not."""
        self._is_draining = True
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout_s)
        cut_off = dict(self._tasks)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        if cut_off:
            ids = [claimed.delivery.id for claimed in cut_off.values()]
            await self._database.write(lambda tx: deliveries.give_back(tx, node=self._node, delivery_ids=ids))


def disable(tx: Tx, endpoint_id: str, reason: str) -> None:
    """Switch an endpoint off, keep its backlog, and tell the other endpoints once."""
    if not endpoints.disable_endpoint(tx, endpoint_id, reason):
        return
    gone = endpoints.get_endpoint(tx, endpoint_id)
    if gone is None:
        return
    told = other_event(
        new_id("evt"),
        EventType.ENDPOINT_DISABLED,
        {"endpoint": {"id": gone.id, "url": gone.url, "description": gone.description, "reason": reason}},
        now=tx.now,
    )
    events.record_events(tx, [told])
