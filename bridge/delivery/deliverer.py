"""The deliverer: claims due deliveries endpoint by endpoint, signs, posts, judges, records.

Who may be sent to and how much of it is the turnstile's business. What an answer means is judged twice: for the
delivery (`domain.delivery.verdict`) and for its endpoint as a whole (`store.endpoint_health`). A POST that is cut off because
the daemon stops is not a failed attempt: its claim is given back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from bridge.cluster.lease_guard import LeaseGuard
from bridge.delivery.limiter import DeliveryLimiter, Share
from bridge.delivery.sender import Sender
from bridge.delivery.signing import sign_attempt
from bridge.domain.addresses.policy import Trust
from bridge.domain.auto_disable import AutoDisableStep
from bridge.domain.clock import Clock
from bridge.domain.delivery import Outcome, PostResult, verdict
from bridge.domain.endpoint import EndpointSource
from bridge.domain.errors import Conflict, StoreUnavailable
from bridge.domain.frozen import frozen
from bridge.domain.retry import RetrySchedule
from bridge.domain.secret import Secret
from bridge.domain.timestamps import format_instant
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics
from bridge.store import attempts, deliveries, endpoint_health
from bridge.store.attempts import AttemptResult
from bridge.store.batching import GAP_S, GROUP_MAX, Batcher
from bridge.store.database import Database
from bridge.store.deliveries import Claimed
from bridge.store.due import due_endpoints, may_probe
from bridge.store.endpoint_health import Note
from bridge.store.transaction import Tx

log = structlog.get_logger()
CLAIMED_NOTHING_REST_S = 0.5  # another node was faster; its POSTs ring its bell, not ours
UNHEARD_S = 5.0  # where there may be other nodes, what they leave behind becomes due without a bell ringing here
FENCED_REST_S = 0.5
COMPARE_EVERY_S = 60.0
LOOK_EVERY_S = 0.004  # at most so often: under load a look claims for several POSTs
UNRECORDED_MAX = GROUP_MAX  # POSTs that arrived and wait without a seat to be recorded
LOOK_AGAIN_S = 0.25  # after all that was due is claimed: what is due next behind it is not known yet


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How deliveries are made. Seats are POSTs at the same time, in all and to one endpoint."""

    schedule: RetrySchedule = RetrySchedule()
    seats: int = 64
    seats_per_endpoint: int = 8


@frozen
class _Look:
    """What one look claimed, the seconds until the next, and whether something due was left that waits for a seat."""

    claimed: list[Claimed]
    rest_s: float
    leaves_something: bool


class Deliverer:
    """Delivers what is due."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        node: str,
        sender: Sender,
        metrics: Metrics,
        settings: DeliverySettings,
        file_secrets: Mapping[str, Secret],
        lease_guard: LeaseGuard | None = None,
    ) -> None:
        self.bell = Bell()
        self.settings = settings
        self.file_secrets = file_secrets
        """Signing secrets of the endpoints in the operator's file, by id; they are never in the database."""
        self._database = database
        self._clock = clock
        self.sharers = 1
        """How many nodes share the endpoints' rate limits."""
        self._node = node
        self._lease_guard = lease_guard or LeaseGuard(clock)
        self._compare_due = 0.0
        self._waits_for_seat = False
        """The last look left something that may go when a POST has ended; True while looking."""
        self._sender = sender
        self._metrics = metrics
        self._limiter = DeliveryLimiter(settings.seats, settings.seats_per_endpoint)
        self._tasks: dict[asyncio.Task[bool], Claimed] = {}
        self._seated: set[str] = set()
        """The ids of the deliveries under way that have a seat …"""
        self._posting: set[str] = set()
        """… and of those whose POST has not ended yet."""
        self._is_draining = False
        self._batcher = Batcher(self._record_all, gap_s=GAP_S)
        self._log = log.bind()  # made ready once: half of what a line costs

    @property
    def in_flight(self) -> int:
        """POSTs under way, recording included."""
        return len(self._tasks)

    async def run_pass(self) -> float:
        """Claim and start what may go; seconds until something else may."""
        limiter = self._limiter
        limiter.seats, limiter.seats_per_endpoint = self.settings.seats, self.settings.seats_per_endpoint
        limiter.sharers = self.sharers
        if self._is_draining or limiter.free <= 0:
            self._waits_for_seat = True
            return math.inf
        if not self._lease_guard.is_open:
            return FENCED_REST_S
        try:
            rest_s = await self._begin_due()
        except StoreUnavailable:
            self._compare_due = 0.0  # something may have been committed whose answer got lost
            raise
        return rest_s if self._database.is_sqlite else min(rest_s, UNHEARD_S)

    async def _begin_due(self) -> float:
        await self._compare(self._clock.monotonic())
        self._waits_for_seat = True
        with self._limiter.looking():
            look = await self._database.write(self._claim_due)
        self._waits_for_seat = look.leaves_something
        for each in look.claimed:
            self._start(each)
        return look.rest_s

    def _claim_due(self, tx: Tx) -> _Look:
        """What may go now, claimed. Nothing is written where nothing may go."""
        due = due_endpoints(tx)
        known = {e: d for e, d in due.items() if d.source is not EndpointSource.CONFIG or e in self.file_secrets}
        shares = self._limiter.share(known, now=tx.now, monotonic=self._clock.monotonic())
        if not shares:
            is_left = any(one.at <= tx.now for one in known.values())
            return _Look([], self._limiter.rest_s(known, now=tx.now), is_left)
        probed = [e for e in shares if known[e].backoff.is_probed and not may_probe(tx, e)]
        given = shares | {e: shares[e].asked_for for e in probed}
        claimed = {e: self._claim(tx, e, share) for e, share in given.items()}
        is_left = any(
            one.at <= tx.now and (e not in given or len(claimed[e]) >= given[e].limit) for e, one in known.items()
        )
        taken = [each for of_endpoint in claimed.values() for each in of_endpoint]
        rest_s = CLAIMED_NOTHING_REST_S if not taken else 0.0 if is_left else LOOK_AGAIN_S
        return _Look(taken, rest_s, is_left)

    async def _compare(self, now: float) -> None:
        """Where there may be other nodes: give back what is claimed for us and in nobody's hands."""
        if self._database.is_sqlite or now < self._compare_due:
            return
        self._compare_due = now + COMPARE_EVERY_S
        held = {claimed.delivery.id for claimed in self._tasks.values()}
        astray = await self._database.read(lambda tx: deliveries.list_held(tx, node=self._node)) - held
        if astray:
            ids = sorted(astray)
            await self._database.write(lambda tx: deliveries.give_back(tx, node=self._node, delivery_ids=ids))

    def _claim(self, tx: Tx, endpoint_id: str, share: Share) -> list[Claimed]:
        return deliveries.claim_due(tx, node=self._node, endpoint_id=endpoint_id, limit=share.limit, lanes=share.lanes)

    # -- one POST

    def _start(self, claimed: Claimed) -> None:
        self._limiter.enter(claimed.endpoint.id)
        task = asyncio.create_task(self._deliver(claimed), name=f"deliver:{claimed.delivery.id}")
        self._tasks[task] = claimed
        self._seated.add(claimed.delivery.id)
        task.add_done_callback(self._ended)

    def _leave(self, claimed: Claimed) -> None:
        """Give up its seat; once."""
        if claimed.delivery.id in self._seated:
            self._seated.discard(claimed.delivery.id)
            self._limiter.leave(claimed.endpoint.id)
            if self._waits_for_seat:
                self.bell.ring()

    def _ended(self, task: asyncio.Task[bool]) -> None:
        claimed = self._tasks.pop(task)
        self._leave(claimed)
        endpoint_id = claimed.endpoint.id
        is_plain = False
        if task.cancelled():
            self._compare_due = 0.0  # its claim is still ours
        elif (error := task.exception()) is not None:
            log.error("delivery.crashed", endpoint=endpoint_id, exc_info=error)
        else:
            is_plain = task.result()
        if not is_plain:
            self.bell.ring()

    async def _deliver(self, claimed: Claimed) -> bool:
        """Whether it arrived at an endpoint that is as well as before: then nothing but its seat is free for others."""
        at = self._clock.now()
        if not self._lease_guard.is_open:  # since it was claimed this process slept, or the database was slow
            self._compare_due = 0.0
            return False
        answer = await self._post_breakably(claimed, int(at.timestamp()))
        state, again_at = verdict(
            claimed.delivery.failures,
            answer,
            now=self._clock.now(),
            schedule=self.settings.schedule,
            ends_when_gone=claimed.endpoint.source is EndpointSource.RUN,
        )
        result = AttemptResult(claimed.delivery, at, answer, state, again_at)
        try:
            note = await self._record(result)
        except Conflict as error:
            log.warning("attempt.refused", delivery_id=claimed.delivery.id, reason=str(error))
            return False
        self._tell(claimed, result)
        if note is not None:
            self._tell_standing(claimed.endpoint.id, note)
        return answer.outcome is Outcome.DELIVERED and (note is None or note.before == note.after)

    async def _post_breakably(self, claimed: Claimed, timestamp: int) -> PostResult:
        self._posting.add(claimed.delivery.id)
        try:
            answer = await self._post(claimed, timestamp)
        finally:
            self._posting.discard(claimed.delivery.id)
        if answer.outcome is Outcome.DELIVERED and len(self._tasks) - len(self._seated) < UNRECORDED_MAX:
            self._leave(claimed)  # the receiver has room again; a failure keeps its seat until its pause is recorded
        return answer

    def break_off(self) -> None:
        """End the POSTs under way: the lease is about to end. What they had to send is due again, here or elsewhere."""
        for task, claimed in self._tasks.items():
            if claimed.delivery.id in self._posting:
                task.cancel()

    async def _post(self, claimed: Claimed, timestamp: int) -> PostResult:
        try:
            headers = sign_attempt(claimed, self.file_secrets.get(claimed.endpoint.id), timestamp)
        except ValueError as error:
            return PostResult(Outcome.UNSIGNED, duration_ms=0, detail=str(error))
        return await self._sender.post(
            claimed.endpoint.url,
            headers=headers,
            body=claimed.body,
            trust=Trust.CONFIG if claimed.endpoint.source is EndpointSource.CONFIG else Trust.API,
            custom_headers=claimed.endpoint.headers,
        )

    async def _record(self, result: AttemptResult) -> Note | None:
        """The attempt and what it means for the endpoint; tried again while the database cannot be written.

        Until it is recorded the claim stands, so the same POST is not made twice meanwhile. Conflict, and nothing
        written, when the claim was lost: others have the delivery now.
        """
        rest_s = 0.5
        while True:
            try:
                return await self._batcher.submit(result)
            except StoreUnavailable as error:
                log.warning("attempt.unrecorded", delivery_id=result.delivery.id, reason=str(error))
                await asyncio.sleep(rest_s)
                rest_s = min(rest_s * 2, 15.0)

    async def _record_all(self, results: list[AttemptResult]) -> list[Note | None]:
        def record(tx: Tx) -> list[Note | None]:
            attempts.lock_orders_of_results(tx, results)
            notes = endpoint_health.note_answers(
                tx, [(result.delivery.endpoint_id, result.answer) for result in results]
            )
            if not all(attempts.record_attempts(tx, node=self._node, results=results)):
                raise Conflict("this node has lost the claim, or recorded it before")  # each for itself, then
            return notes

        return await self._database.write(record)

    def _tell(self, claimed: Claimed, result: AttemptResult) -> None:
        answer = result.answer
        self._metrics.of(self._metrics.attempts, answer.outcome.value).inc()
        self._metrics.attempt_seconds.observe(answer.duration_ms / 1000)
        if answer.outcome is Outcome.DELIVERED and not claimed.delivery.is_manual:
            waited_s = (self._clock.now() - claimed.delivery.created_at).total_seconds()
            self._metrics.event_seconds.observe(max(0.0, waited_s))
        self._log.info(
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

    def _tell_standing(self, endpoint_id: str, note: Note) -> None:
        """Edges only: once when it is slowed down, fails or is switched off, once when it is well again."""
        if note.after.is_probed and not note.before.is_probed:
            opens_at = note.after.opens_at
            log.warning("endpoint.slowed", endpoint=endpoint_id, until=opens_at and format_instant(opens_at))
        elif note.before.is_probed and not note.after.is_probed:
            log.info("endpoint.recovered", endpoint=endpoint_id)
        match note.step:
            case AutoDisableStep.DISABLE:
                self._metrics.endpoints_disabled.labels(note.cause).inc()
                log.error("endpoint.disabled", endpoint=endpoint_id, reason=note.reason)
            case AutoDisableStep.WARN:
                self._metrics.endpoints_failing.inc()
                log.warning("endpoint.failing", endpoint=endpoint_id, reason=note.reason)
            case AutoDisableStep.NOTHING:
                pass

    # -- stopping

    async def drain(self, timeout_s: float) -> None:
        """Let POSTs under way end within `timeout_s`; give back the claims of those that do not."""
        self._is_draining = True
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout_s)
        cut_off = await self.abandon()
        if cut_off:
            ids = [claimed.delivery.id for claimed in cut_off.values()]
            await self._database.write(lambda tx: deliveries.give_back(tx, node=self._node, delivery_ids=ids))

    async def abandon(self) -> dict[asyncio.Task[bool], Claimed]:
        """Break everything off and write nothing more; what was under way."""
        self._is_draining = True
        cut_off = dict(self._tasks)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        return cut_off
