"""The deliverer: claims due deliveries endpoint by endpoint, signs, posts, judges and records them.

The `DeliveryLimiter` decides how many deliveries each endpoint may start. A result is judged twice: for the delivery
(`domain.delivery.state_after`) and for its endpoint (`store.endpoint_health`). A POST that is cut off because the
daemon stops is not a failed attempt: its claim is given back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import structlog

from bridge.cluster.lease_guard import LeaseGuard
from bridge.delivery.limiter import DeliveryLimiter, Share
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.auto_disable import AutoDisableStep
from bridge.domain.clock import Clock
from bridge.domain.delivery import Outcome, PostResult, state_after
from bridge.domain.endpoint import EndpointSource
from bridge.domain.errors import Conflict, StoreUnavailable
from bridge.domain.frozen import frozen
from bridge.domain.retry import RetrySchedule
from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import signing_key, with_v1a
from bridge.domain.signing.hmac_v1 import secret_key, signature_headers
from bridge.domain.timestamps import format_instant
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics
from bridge.store import attempts, deliveries, endpoint_health
from bridge.store.attempts import AttemptResult
from bridge.store.batching import GROUP_MAX
from bridge.store.database import Database
from bridge.store.deliveries import LeasedDelivery, due_endpoints, may_probe
from bridge.store.endpoint_health import HealthChange
from bridge.store.transaction import Tx

log = structlog.get_logger()
PASS_GAP_S = 0.004  # at least this long between passes: under load one pass claims for several POSTs
CLAIMED_NOTHING_REST_S = 0.5  # another node was faster; its POSTs ring its own bell
CLAIM_AGAIN_S = 0.25  # after claiming all that was due: when the next delivery is due is not known yet
UNHEARD_S = 5.0  # with several nodes: what another node gives back becomes due without ringing our bell
FENCED_REST_S = 0.5
COMPARE_EVERY_S = 60.0
UNRECORDED_MAX = GROUP_MAX  # delivered, without a slot, and waiting to be recorded


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How deliveries are made: the retry schedule, and how many POSTs may run in all and to one endpoint."""

    schedule: RetrySchedule = RetrySchedule()
    slots: int = 64
    slots_per_endpoint: int = 8


class _Phase(Enum):
    """How far a delivery in flight is. Its slot is free once it is recording, unless its POST failed."""

    POSTING = "posting"
    RECORDING = "recording"


@dataclass(slots=True, eq=False)
class _InFlight:
    """A delivery that this deliverer works on, from its claim until its attempt is recorded."""

    claimed: LeasedDelivery
    phase: _Phase = _Phase.POSTING
    has_slot: bool = True


@frozen
class _Posted:
    """A POST that has ended; `at` is when it began."""

    claimed: LeasedDelivery
    at: datetime
    answer: PostResult


@frozen
class _Claims:
    """What one pass claimed, the seconds until the next, and whether something due still waits for a slot."""

    claimed: list[LeasedDelivery]
    rest_s: float
    has_more: bool


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
        self.nodes = 1
        """How many nodes share the endpoints' rate limits."""
        self._database = database
        self._clock = clock
        self._node = node
        self._lease_guard = lease_guard or LeaseGuard(clock)
        self._compare_due = 0.0
        self._waits_for_slot = False
        """The last pass left something that may start when a POST ends; True during a pass."""
        self._sender = sender
        self._metrics = metrics
        self._limiter = DeliveryLimiter(settings.slots, settings.slots_per_endpoint)
        self._in_flight: dict[asyncio.Task[bool], _InFlight] = {}
        self._is_draining = False
        self._results = database.grouped(self._record_all)
        self._log = log.bind()  # bound once: half of what a line costs

    @property
    def in_flight(self) -> int:
        """Deliveries being posted or recorded."""
        return len(self._in_flight)

    async def run_pass(self) -> float:
        """Claim and start what may start; return the seconds until something else may."""
        limiter = self._limiter
        limiter.slots, limiter.slots_per_endpoint = self.settings.slots, self.settings.slots_per_endpoint
        limiter.nodes = self.nodes
        if self._is_draining or limiter.free <= 0:
            self._waits_for_slot = True
            return math.inf
        if not self._lease_guard.is_open:
            return FENCED_REST_S
        try:
            rest_s = await self._start_due()
        except StoreUnavailable:
            self._compare_due = 0.0  # a claim may have been committed although its result was lost
            raise
        return rest_s if self._database.is_sqlite else min(rest_s, UNHEARD_S)

    async def _start_due(self) -> float:
        await self._give_back_strays(self._clock.monotonic())
        self._waits_for_slot = True
        with self._limiter.snapshot():
            claims = await self._database.write(self._claim_due)
        self._waits_for_slot = claims.has_more
        for claimed in claims.claimed:
            self._start(claimed)
        return claims.rest_s

    def _claim_due(self, tx: Tx) -> _Claims:
        """Claim what may start now; write nothing where nothing may."""
        due = due_endpoints(tx)
        known = {e: d for e, d in due.items() if d.source is not EndpointSource.CONFIG or e in self.file_secrets}
        shares = self._limiter.share(known, now=tx.now, monotonic=self._clock.monotonic())
        if not shares:
            has_more = any(one.at <= tx.now for one in known.values())
            return _Claims([], self._limiter.rest_s(known, now=tx.now), has_more)
        probed = [e for e in shares if known[e].backoff.is_probed and not may_probe(tx, e)]
        given = shares | {e: shares[e].at_once for e in probed}
        claimed = {e: self._claim(tx, e, share) for e, share in given.items()}
        has_more = any(
            one.at <= tx.now and (e not in given or len(claimed[e]) >= given[e].limit) for e, one in known.items()
        )
        taken = [each for of_endpoint in claimed.values() for each in of_endpoint]
        rest_s = CLAIMED_NOTHING_REST_S if not taken else 0.0 if has_more else CLAIM_AGAIN_S
        return _Claims(taken, rest_s, has_more)

    async def _give_back_strays(self, now: float) -> None:
        """Give back what the database holds claimed for this node and is not in flight.

        On SQLite there is such a thing only after a crash of a delivery.
        """
        if now < self._compare_due:
            return
        self._compare_due = math.inf if self._database.is_sqlite else now + COMPARE_EVERY_S
        held = {flight.claimed.delivery.id for flight in self._in_flight.values()}
        strays = await self._database.read(lambda tx: deliveries.list_leased(tx, node=self._node)) - held
        if strays:
            await self._give_back(sorted(strays))

    async def _give_back(self, delivery_ids: list[str]) -> None:
        await self._database.write(lambda tx: deliveries.release(tx, node=self._node, delivery_ids=delivery_ids))

    def _claim(self, tx: Tx, endpoint_id: str, share: Share) -> list[LeasedDelivery]:
        return deliveries.acquire_due(
            tx, node=self._node, endpoint_id=endpoint_id, limit=share.limit, lanes=share.lanes
        )

    # -- one delivery

    def _start(self, claimed: LeasedDelivery) -> None:
        self._limiter.take(claimed.endpoint.id)
        flight = _InFlight(claimed)
        task = asyncio.create_task(self._deliver(flight), name=f"deliver:{claimed.delivery.id}")
        self._in_flight[task] = flight
        task.add_done_callback(self._ended)

    def _release_slot(self, flight: _InFlight) -> None:
        if flight.has_slot:
            flight.has_slot = False
            self._limiter.release(flight.claimed.endpoint.id)
            if self._waits_for_slot:
                self.bell.ring()

    def _ended(self, task: asyncio.Task[bool]) -> None:
        flight = self._in_flight.pop(task)
        self._release_slot(flight)
        is_plain = False
        if task.cancelled():
            self._compare_due = 0.0  # its claim is still ours
        elif (error := task.exception()) is not None:
            self._compare_due = min(self._compare_due, self._clock.monotonic() + COMPARE_EVERY_S)  # not at once again
            log.error("delivery.crashed", endpoint=flight.claimed.endpoint.id, exc_info=error)
        else:
            is_plain = task.result()
        if not is_plain:
            self.bell.ring()

    async def _deliver(self, flight: _InFlight) -> bool:
        """True if it was delivered and the endpoint's health is unchanged: only the slot is new to the next pass."""
        claimed = flight.claimed
        at = self._clock.now()
        if not self._lease_guard.is_open:  # this process was suspended, or the database slow, since the claim
            self._compare_due = 0.0
            return False
        answer = await self._post(claimed, int(at.timestamp()))
        is_delivered = answer.outcome is Outcome.DELIVERED
        flight.phase = _Phase.RECORDING
        if is_delivered and len(self._in_flight) - self._limiter.busy < UNRECORDED_MAX:
            self._release_slot(flight)  # a failure keeps its slot until its pause is recorded
        try:
            result, note = await self._record(_Posted(claimed, at, answer))
        except Conflict as error:
            log.warning("attempt.refused", delivery_id=claimed.delivery.id, reason=str(error))
            return False
        self._log_attempt(claimed, result)
        if note is not None:
            self._log_health(claimed.endpoint.id, note)
        return is_delivered and (note is None or note.before == note.after)

    async def _post(self, claimed: LeasedDelivery, timestamp: int) -> PostResult:
        try:
            headers = sign_attempt(claimed, self.file_secrets.get(claimed.endpoint.id), timestamp)
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
        results = [self._result(each, tx.now) for each in posted]
        attempts.lock_ordering(tx, results)
        notes = endpoint_health.apply_results(tx, [(result.delivery.endpoint_id, result.answer) for result in results])
        if not all(attempts.record_attempts(tx, node=self._node, results=results)):
            raise Conflict("this node has lost the claim, or recorded it before")  # the others are recorded one by one
        return list(zip(results, notes, strict=True))

    def _result(self, posted: _Posted, now: datetime) -> AttemptResult:
        """What to record; `now` is the transaction's, because the wall clock may have been set since the POST."""
        delivery, answer = posted.claimed.delivery, posted.answer
        state, again_at = state_after(
            delivery.failures,
            answer,
            now=now,
            schedule=self.settings.schedule,
            ends_when_gone=posted.claimed.endpoint.source is EndpointSource.RUN,
        )
        return AttemptResult(delivery, posted.at, answer, state, again_at)

    def _log_attempt(self, claimed: LeasedDelivery, result: AttemptResult) -> None:
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

    def _log_health(self, endpoint_id: str, note: HealthChange) -> None:
        """Log edges only: slowed, failing, disabled, recovered; each once."""
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

    def cancel_posts(self) -> None:
        """Cancel the POSTs under way because the lease is about to end; their deliveries become due again."""
        for task, flight in self._in_flight.items():
            if flight.phase is _Phase.POSTING:
                task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for deliveries in flight; give back the claims of those that are not done."""
        self._is_draining = True
        if self._in_flight:
            await asyncio.wait(list(self._in_flight), timeout=timeout_s)
        cut_off = await self.abandon()
        if cut_off:
            await self._give_back([claimed.delivery.id for claimed in cut_off])

    async def abandon(self) -> list[LeasedDelivery]:
        """Cancel all deliveries in flight and write nothing more; return what was cut off."""
        self._is_draining = True
        cut_off = dict(self._in_flight)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        return [flight.claimed for flight in cut_off.values()]


def sign_attempt(claimed: LeasedDelivery, file_secret: Secret | None, timestamp: int) -> dict[str, str]:
    """Our headers of one attempt: the signatures of every live secret over the claimed bytes, and the content type.

    `file_secret` is that of an endpoint from the operator's file; `timestamp` is in Unix seconds.
    Raises ValueError with the reason if nothing can sign.
    """
    if claimed.fault is not None:
        raise ValueError(claimed.fault)
    shared = [file_secret] if file_secret is not None else [s.secret for s in claimed.secrets if s.kind == "v1"]
    if not shared:
        raise ValueError("it has no signing secret; rotate it to get one")
    keys = [secret_key(secret.reveal()) for secret in shared]
    headers = signature_headers(keys, claimed.delivery.event_id, timestamp, claimed.body)
    own = [signing_key(s.secret.reveal()) for s in claimed.secrets if s.kind == "v1a"]
    if own:
        headers = with_v1a(headers, own, claimed.body)
    return {**headers, "content-type": claimed.content_type}
