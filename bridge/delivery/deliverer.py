"""The deliverer: claims due deliveries endpoint by endpoint, signs, posts, judges and records them.

claimed by a pass, or leased when recorded ──► waits for a slot ──► POST (holds the slot) ──► recorded

A slot is held while a POST is open, not while a row is written. The `DeliveryLimiter` decides how many deliveries each
endpoint may have claimed, `DeliverySlots` which POST begins. A result is judged twice: for the delivery
(`domain.delivery.state_after`) and for its endpoint (`store.endpoint_health`). A POST that is cut off because the
daemon stops is not a failed attempt: its claim is given back.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

import structlog

from bridge.cluster.lease_guard import LeaseGuard
from bridge.delivery.attempt_log import AttemptLog
from bridge.delivery.limiter import DeliveryLimiter, DeliverySlots, Held
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.clock import Clock
from bridge.domain.delivery import Lane, Outcome, PostResult, RetrySchedule, state_after
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict, StoreUnavailable
from bridge.domain.frozen import frozen
from bridge.domain.leased_delivery import DeliveryOffer, LeasedDelivery
from bridge.domain.secret import Secret
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics
from bridge.store import attempts, deliveries, endpoint_health
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import due_endpoints, may_probe
from bridge.store.endpoint_health import HealthChange
from bridge.store.transaction import CommitSignals, Tx

if TYPE_CHECKING:
    from bridge.runtime.tracing import Tracing

log = structlog.get_logger()
PASS_GAP_S = 0.004  # at least this long between passes: under load one pass claims for several POSTs
CLAIMED_NOTHING_REST_S = 0.5  # another node was faster; its POSTs ring its own bell
CLAIM_AGAIN_S = 0.25  # after claiming all that was due: when the next delivery is due is not known yet
UNHEARD_S = 5.0  # with several nodes: what another node gives back becomes due without ringing our bell
GUARDED_REST_S = 0.5
COMPARE_EVERY_S = 20.0  # a dead node's claims last as long
COMPARE_AGAIN_S = 1.0
CRASHED_REST_S = 60.0
BEHIND_MIN = 16  # waiting for a slot
UNRECORDED_MAX = 32  # delivered, without a slot, and waiting to be recorded: a kill makes them arrive twice


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """The retry schedule, and the number of POSTs that may run in all and to one endpoint."""

    schedule: RetrySchedule = RetrySchedule()
    slots: int = 64
    slots_per_endpoint: int = 8


class _Phase(Enum):
    """How far a delivery in flight is. Its slot is free once it is recording, unless its POST failed."""

    WAITING = "waiting"
    POSTING = "posting"
    RECORDING = "recording"


@dataclass(slots=True, eq=False)
class _InFlight:
    """A delivery that this deliverer works on, from its claim until its attempt is recorded."""

    claimed: LeasedDelivery
    phase: _Phase = _Phase.WAITING
    task: asyncio.Task[bool] | None = None
    has_slot: bool = False
    has_failed: bool = False
    """Its POST failed, and that is not recorded yet."""


@frozen
class _Posted:
    """A POST that has ended; `at` is when it began."""

    claimed: LeasedDelivery
    at: datetime
    answer: PostResult


@frozen
class _Claims:
    """The claims of one pass, the seconds until the next, and the endpoints that still have something due."""

    claimed: list[LeasedDelivery]
    rest_s: float
    behind: set[str]


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
        tracing: Tracing | None = None,
    ) -> None:
        self.bell = Bell()
        self.settings = settings
        self.file_secrets = file_secrets
        """Signing secrets of the endpoints in the operator's file, by id; they are never in the database."""
        self.nodes = 1
        """How many nodes share the endpoints' rate limits."""
        self.offer: Final = DeliveryOffer(node, self._room, lambda: self.is_behind)
        """For those who record events: new deliveries that this deliverer takes with their commit."""
        self._database = database
        self._clock = clock
        self._node = node
        self._lease_guard = lease_guard or LeaseGuard(clock)
        self._sender = sender
        self._log = AttemptLog(metrics, clock, tracing)
        self._traces = tracing is not None
        self._limiter = DeliveryLimiter(settings.slots, settings.slots_per_endpoint)
        self._slots: DeliverySlots[_InFlight] = DeliverySlots(settings.slots, settings.slots_per_endpoint)
        self._in_flight: dict[str, _InFlight] = {}
        self._recording = 0
        self._has_unseen = True
        """Whether a delivery is due that no pass has seen yet; newer ones must not overtake it."""
        self._behind: set[str] = set()
        """Endpoints of which the last pass left something due."""
        self._closed: set[str] = set()
        """Endpoints that a failure has closed since the last pass began."""
        self._to_give_back: dict[str, float] = {}
        """Claims to give back, with when (monotonic)."""
        self._compare_due = 0.0
        self._unheld: set[str] = set()
        """Claimed for this node but not in flight, when last compared."""
        self._results = database.grouped(self._record_all)
        self._is_draining = False

    @property
    def in_flight(self) -> int:
        """Deliveries that wait for a slot, are posted or recorded."""
        return len(self._in_flight)

    @property
    def is_behind(self) -> bool:
        """Whether deliveries wait whose receivers are quick: for slow ones nothing is claimed ahead."""
        return self._slots.waiting >= BEHIND_MIN

    # -- what is due

    async def run_pass(self) -> float:
        """Claim and start what may start; return the seconds until something else may."""
        slots = self._slots
        slots.total, slots.per_endpoint = self.settings.slots, self.settings.slots_per_endpoint
        self._limiter.slots, self._limiter.slots_per_endpoint = slots.total, slots.per_endpoint
        self._limiter.nodes = self.nodes
        if self._is_draining:
            return math.inf
        if not self._lease_guard.is_open:
            return GUARDED_REST_S
        try:
            await self._give_back_due(self._clock.monotonic())
            await self._compare(self._clock.monotonic())
            rest_s = await self._start_due()
        except StoreUnavailable:
            self._compare_due = 0.0  # a claim may have been committed although its result was lost
            raise
        next_at = min(self._to_give_back.values(), default=math.inf)
        if self._unheld:
            next_at = min(next_at, self._compare_due)
        rest_s = min(rest_s, max(0.0, next_at - self._clock.monotonic()))
        return rest_s if self._database.is_sqlite else min(rest_s, UNHEARD_S)

    async def _start_due(self) -> float:
        if self._slots.busy >= self._slots.total:  # the end of a POST rings the bell
            self._behind.add("")
            return math.inf
        self._has_unseen = False
        self._closed.clear()
        held = self._slots.held()
        claims = await self._database.write(lambda tx: self._claim_due(tx, held))
        self._behind = claims.behind
        for claimed in claims.claimed:
            self._limiter.take(claimed.endpoint.id)
            if claimed.endpoint.id in self._closed and claimed.delivery.lane is not Lane.AT_ONCE:
                self._to_give_back[claimed.delivery.id] = 0.0
            else:
                self._hold(claimed)
        self._start_waiting()
        return claims.rest_s

    def _claim_due(self, tx: Tx, held: Mapping[str, Held]) -> _Claims:
        """Claim what may start now or soon; write nothing where nothing may."""
        due = due_endpoints(tx)
        tx.signals.has_claimed_due = tx.driver is not None
        known = {e: d for e, d in due.items() if d.source is not EndpointSource.CONFIG or e in self.file_secrets}
        shares = self._limiter.share(known, held, now=tx.now, monotonic=self._clock.monotonic())
        if not shares:
            behind = {e for e, one in known.items() if one.at <= tx.now}
            return _Claims([], self._limiter.rest_s(known, now=tx.now), behind)
        claimed: list[LeasedDelivery] = []
        behind = {e for e, one in known.items() if one.at <= tx.now and e not in shares}
        for endpoint_id, share in shares.items():
            given = share
            if known[endpoint_id].backoff.is_probed and not may_probe(tx, endpoint_id):
                given = share.at_once
            found = deliveries.acquire_due(
                tx,
                node=self._node,
                endpoint_id=endpoint_id,
                limit=given.limit,
                lanes=given.lanes,
                with_traces=self._traces,
            )
            claimed += found
            if len(found) >= given.limit:
                behind.add(endpoint_id)
        rest_s = CLAIMED_NOTHING_REST_S if not claimed else 0.0 if behind else CLAIM_AGAIN_S
        return _Claims(claimed, rest_s, behind)

    def follow_commit(self, signals: CommitSignals) -> None:
        """Take what a commit leased to this node, and wake the pass for what it made due."""
        if signals.has_claimed_due:
            self._has_unseen = False
        if signals.deliveries_due:
            self._has_unseen = True
            self.bell.ring()
        for claimed in signals.leased_deliveries:
            self._hold(claimed)
        if signals.endpoints_changed:
            self._withdraw(self._slots.withdraw())
        self._start_waiting()

    def _room(self, endpoint: Endpoint) -> int:
        """The number of new deliveries of an endpoint that this deliverer takes now; on any thread."""
        cannot_sign = endpoint.source is EndpointSource.CONFIG and endpoint.id not in self.file_secrets
        is_closed = cannot_sign or self._has_unseen or endpoint.id in self._behind
        if is_closed or self._is_draining or not self._lease_guard.is_open:
            return 0
        return self._slots.room(endpoint.id)

    # -- giving back

    async def _give_back_due(self, now: float) -> None:
        due = [delivery_id for delivery_id, at in self._to_give_back.items() if at <= now]
        if due:
            await self._give_back(due)
            for delivery_id in due:
                del self._to_give_back[delivery_id]

    async def _compare(self, now: float) -> None:
        """Give back what the database holds claimed for this node and is not in flight.

        Only what is found so twice: a commit may just be handing over what it leased.
        """
        if now < self._compare_due:
            return
        leased = await self._database.read(lambda tx: deliveries.list_leased(tx, node=self._node))
        unheld = leased - self._in_flight.keys() - self._to_give_back.keys()
        if lost := unheld & self._unheld:
            await self._give_back(sorted(lost))
        self._unheld = unheld - lost
        self._compare_due = now + (COMPARE_AGAIN_S if self._unheld else COMPARE_EVERY_S)

    async def _give_back(self, delivery_ids: list[str]) -> None:
        await self._database.write(lambda tx: deliveries.release(tx, node=self._node, delivery_ids=delivery_ids))

    def _withdraw(self, flights: Iterable[_InFlight]) -> None:
        """Give back deliveries that wait for a slot."""
        for flight in flights:
            del self._in_flight[flight.claimed.delivery.id]
            self._to_give_back[flight.claimed.delivery.id] = 0.0
            self.bell.ring()

    # -- one delivery

    def _hold(self, claimed: LeasedDelivery) -> None:
        if self._is_draining:  # the node's claims are given back when it leaves
            return
        self._in_flight[claimed.delivery.id] = flight = _InFlight(claimed)
        self._slots.add(claimed.endpoint.id, flight, goes_first=claimed.delivery.lane is Lane.AT_ONCE)

    def _start_waiting(self) -> None:
        while not self._is_draining and (flight := self._slots.start_next()) is not None:
            flight.phase, flight.has_slot = _Phase.POSTING, True
            flight.task = asyncio.create_task(self._deliver(flight), name=f"deliver:{flight.claimed.delivery.id}")
            flight.task.add_done_callback(functools.partial(self._ended, flight))

    def _release_slot(self, flight: _InFlight) -> None:
        if flight.has_slot:
            flight.has_slot = False
            self._slots.release(flight.claimed.endpoint.id)
            self._start_waiting()
            if self._behind and self._slots.is_low(flight.claimed.endpoint.id):
                self.bell.ring()

    def _ended(self, flight: _InFlight, task: asyncio.Task[bool]) -> None:
        delivery_id, endpoint_id = flight.claimed.delivery.id, flight.claimed.endpoint.id
        if self._in_flight.get(delivery_id) is flight:  # otherwise it was leased again: its attempt is recorded already
            del self._in_flight[delivery_id]
        if flight.phase is _Phase.RECORDING:
            self._recording -= 1
        if flight.has_failed:
            self._slots.end_failure(endpoint_id)
        is_plain = False
        if task.cancelled():
            self._to_give_back[delivery_id] = 0.0
        elif (error := task.exception()) is not None:
            self._to_give_back[delivery_id] = self._clock.monotonic() + CRASHED_REST_S  # not again at once
            log.error("delivery.crashed", endpoint=endpoint_id, exc_info=error)
        else:
            is_plain = task.result()
        self._release_slot(flight)
        if not is_plain:
            self.bell.ring()

    async def _deliver(self, flight: _InFlight) -> bool:
        """Post a delivery and record the attempt. False if the next pass has more to do than to use the free slot."""
        claimed = flight.claimed
        at = self._clock.now()
        if not self._lease_guard.is_open:  # this process was suspended since the claim, or the database was slow
            self._to_give_back[claimed.delivery.id] = 0.0
            return False
        answer = await self._post(claimed)
        is_delivered = answer.outcome is Outcome.DELIVERED
        flight.phase = _Phase.RECORDING
        self._recording += 1
        if is_delivered:
            self._slots.note_delivered(claimed.endpoint.id, answer.duration_ms / 1000)
            if self._recording <= UNRECORDED_MAX:
                self._release_slot(flight)
        else:  # it keeps its slot until its pause is recorded
            flight.has_failed = True
            self._slots.note_failed(claimed.endpoint.id)
        try:
            result, note = await self._record(_Posted(claimed, at, answer))
        except Conflict as error:
            log.warning("attempt.refused", delivery_id=claimed.delivery.id, reason=str(error))
            return False
        self._log.attempt(claimed, result)
        if note is not None:
            self._log.health(claimed.endpoint.id, note, answer.detail)
            if note.after.is_probed or note.after.opens_at is not None:
                self._closed.add(claimed.endpoint.id)
                self._withdraw(self._slots.withdraw(claimed.endpoint.id))
        return is_delivered and (note is None or note.before == note.after)

    async def _post(self, claimed: LeasedDelivery) -> PostResult:
        timestamp = int(self._sender.wall_clock.now().timestamp())
        try:
            headers = claimed.headers(self.file_secrets.get(claimed.endpoint.id), timestamp)
        except ValueError as error:
            return PostResult(Outcome.UNSIGNED, duration_ms=0, detail=str(error))
        return await self._sender.post(
            claimed.endpoint.url,
            headers=headers,
            body=claimed.body,
            trust=Trust.of(claimed.endpoint.source),
            custom_headers=claimed.endpoint.headers,
        )

    async def _record(self, posted: _Posted) -> tuple[AttemptResult, HealthChange | None]:
        """Record the attempt and its effect on the endpoint; retry while the database cannot be written.

        The claim stands until then, so the same POST is not made twice. Raises Conflict, with nothing written, if the
        claim was lost to another node.
        """
        rest_s = 0.5
        while True:
            try:
                return await self._results.submit(posted)
            except StoreUnavailable as error:
                log.warning("attempt.unrecorded", delivery_id=posted.claimed.delivery.id, reason=str(error))
                await asyncio.sleep(rest_s)
                rest_s = min(rest_s * 2, 15.0)

    def _record_all(self, tx: Tx, posted: list[_Posted]) -> list[tuple[AttemptResult, HealthChange | None]]:
        results = attempts.retry_sooner(tx, [self._result(each, tx.now) for each in posted])
        attempts.lock_ordering(tx, results)
        notes = endpoint_health.apply_results(tx, [(result.delivery.endpoint_id, result.answer) for result in results])
        if not all(attempts.record_attempts(tx, node=self._node, results=results)):
            raise Conflict("this node has lost the claim, or recorded it before")  # the others are recorded one by one
        return list(zip(results, notes, strict=True))

    def _result(self, posted: _Posted, now: datetime) -> AttemptResult:
        """The result to record; `now` is the transaction's, because the wall clock may have been set since the POST."""
        delivery, answer = posted.claimed.delivery, posted.answer
        state, again_at = state_after(
            delivery.failures,
            answer,
            now=now,
            schedule=self.settings.schedule,
            ends_when_gone=posted.claimed.endpoint.source is EndpointSource.RUN,
        )
        return AttemptResult(delivery, posted.at, answer, state, again_at)

    # -- stopping

    def cancel_posts(self) -> None:
        """Cancel the POSTs under way because the lease is about to end; their deliveries become due again."""
        self._withdraw(self._slots.withdraw())
        for flight in self._in_flight.values():
            if flight.task is not None and flight.phase is _Phase.POSTING:
                flight.task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for POSTs under way; give back the claims of what is not done."""
        self._is_draining = True
        self._withdraw(self._slots.withdraw())
        if self._in_flight:
            await asyncio.wait([flight.task for flight in self._in_flight.values() if flight.task], timeout=timeout_s)
        await self.abandon()
        if self._to_give_back:
            await self._give_back(sorted(self._to_give_back))

    async def abandon(self) -> None:
        """Cancel all deliveries in flight and write nothing more."""
        self._is_draining = True
        self._withdraw(self._slots.withdraw())
        tasks = [flight.task for flight in self._in_flight.values() if flight.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
