"""What looks bring: recorded where it is news, learned from where it is an end, and the next look planned.

observed ──► as before ──► seen alive, planned
         └──► news ──────► recorded (run, events, deliveries) ──► goes on: planned · over: dropped
failed   ──► counted, tried again later; lost or expired: recorded, dropped
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from bridge.domain import transition
from bridge.domain.clock import Clock
from bridge.domain.connection import Connection
from bridge.domain.errors import StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.observation import Observation, Observed, PollFailed, PollResult
from bridge.domain.run import Run, RunError, RunStatus
from bridge.domain.timestamps import format_duration, seconds_between
from bridge.polling.connection_client import HealthChange
from bridge.polling.planner import Planner
from bridge.polling.schedule import Hand, Watch
from bridge.runtime.metrics import Metrics
from bridge.store import connections, endpoints, transitions
from bridge.store.batching import GAP_S, GROUP_MAX, Batcher
from bridge.store.database import Database
from bridge.store.transaction import Tx

log = structlog.get_logger()
STORE_RETRY_S: Final = 5.0
CRASH_RETRY_S: Final = 60.0
COMPARED_MAX: Final = 2_000  # runs in hand that a run is compared with before it is called overdue

Schedule = Callable[[Watch, float, str], None]


class Intake:
    """Of one poller. `schedule` takes a watch, the seconds until its next look, and why then."""

    def __init__(
        self, hand: Hand, planner: Planner, recorder: Recorder, schedule: Schedule, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._hand = hand
        self._planner = planner
        self._recorder = recorder
        self._schedule = schedule
        self._clock = clock
        self._metrics = metrics

    async def take_in(self, watch: Watch, result: PollResult, now: float) -> None:
        """Take in what a look brought that ended at `now` (monotonic); the watch is in flight until that is done."""
        try:
            if self._hand.get(watch.run.id) is watch:
                await self._judge(watch, result, now)
        except StoreUnavailable as error:
            log.warning(
                "observation.postponed", connection=watch.run.connection, run_id=watch.run.id, reason=str(error)
            )
            self._schedule(watch, STORE_RETRY_S, "the database could not be written")
        except Exception:  # like the loop: one run's trouble must not end its being watched
            log.exception("poll.crashed", connection=watch.run.connection, run_id=watch.run.id)
            self._schedule(watch, CRASH_RETRY_S, "the last look failed inside the bridge")
        finally:  # not before: a list that shows the run meanwhile would be recorded beside it
            watch.is_in_flight = False

    async def _judge(self, watch: Watch, result: PollResult, now: float) -> None:
        match result:
            case Observed():
                watch.is_304 = result.is_unchanged
                await self._observed(watch, result, now)
                watch.etag, watch.body = (
                    result.etag,
                    result.body,
                )  # not before: until recorded they would hide the change
            case PollFailed():
                watch.is_304 = False
                await self._failed(watch, result, now)

    async def _observed(self, watch: Watch, result: Observed, now: float) -> None:
        watch.forget_failures()
        seen, wall = result.observation, self._clock.now()
        if seen.status is RunStatus.UNKNOWN:
            self._metrics.unmapped.labels(watch.run.connection).inc()
        is_anew = watch.run.observed_at is None or seen.status is not watch.run.status
        if not is_anew:
            self._planner.see_alive(watch, seen)
        expires = transition.is_expired(watch.run, wall, seen=seen.status)
        is_overdue = not is_anew and self._planner.is_overdue(watch, now, self._hand.some(COMPARED_MAX))
        if not (expires or is_overdue) and not transition.has_news(watch.run, seen):
            self._plan(watch, result, now)
            return
        since = self._planner.began_at(watch, result, wall, now) if is_anew else None
        before = watch.with_counters()
        after = await self._recorder.record(before, seen, since=since, expires=expires, is_overdue=is_overdue)
        if is_anew and after is not None:
            self._learn(watch, result, now)
        if expires:
            self._planner.learn_given_up(watch, now)
        if self._keep(watch, after):
            if is_anew:
                watch.begin(wall, now)
            self._plan(watch, result, now)

    def _learn(self, watch: Watch, result: Observed, now: float) -> None:
        seen = result.observation
        age_s = seconds_between(seen.started_at or seen.created_at, result.answered_at)
        late_s = self._planner.learn_end(watch, seen, now, age_s=age_s)
        if seen.status.is_settled:
            self._metrics.of(self._metrics.polls_per_run, watch.run.connection).observe(watch.requests)
        if late_s is not None:
            self._metrics.of(self._metrics.noticed_delay, watch.run.connection).observe(late_s)

    async def _failed(self, watch: Watch, failed: PollFailed, now: float) -> None:
        wall = self._clock.now()
        watch.count_failure(failed.kind, wall)
        lost: RunError | None = None
        if transition.is_lost(watch.with_counters(), wall):
            lost = RunError(f"the provider no longer knows this run ({failed.message})", "not_found")
        log.info(
            "poll.failed",
            connection=watch.run.connection,
            run_id=watch.run.id,
            kind=failed.kind.value,
            reason=failed.message,
        )
        if lost or transition.is_expired(watch.run, wall):
            if not lost:
                self._planner.learn_given_up(watch, now)
            self._keep(watch, await self._recorder.give_up(watch.with_counters(), lost))
        if self._hand.get(watch.run.id) is watch:
            plan = self._planner.next_try(watch, failed.retry_after_s)
            self._schedule(watch, plan.delay_s, plan.reason)

    def _keep(self, watch: Watch, after: Run | None) -> bool:
        """Go on with the run as it is now; False when it is over, was removed, or another node has it."""
        if after is None or after.settled:
            self._hand.drop(watch.run.id)
            return False
        watch.run = after
        return self._hand.get(after.id) is watch

    def _plan(self, watch: Watch, result: Observed, now: float) -> None:
        plan = self._planner.next_look(watch, result, now)
        self._schedule(watch, plan.delay_s, plan.reason)


BEHIND_MIN = 2 * GROUP_MAX  # looks whose news is not written yet: one group at the desk, and the next


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look saw of a run; `since` as in `transition.observe`."""

    before: Run
    seen: Observation
    since: datetime | None


class Recorder:
    """The pen of one poller; writes only under its node's claim."""

    def __init__(self, connection: Connection, database: Database, node: str, metrics: Metrics) -> None:
        self._connection = connection
        self._database = database
        self._node = node
        self._metrics = metrics
        self._log = log.bind(connection=connection.name)  # made ready once: half of what a line costs
        self._batcher = Batcher(self._record_all, gap_s=GAP_S)

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that nothing more should be looked at meanwhile."""
        return self._batcher.pending >= BEHIND_MIN

    async def record(
        self, before: Run, seen: Observation, *, since: datetime | None, expires: bool, is_overdue: bool
    ) -> Run | None:
        """The run after this observation, with all that it tells; None if it is no longer ours to write."""
        if not (expires or is_overdue):
            return self._told(before, await self._batcher.submit(_Look(before, seen, since)))

        def record(tx: Tx) -> Run | None:
            [(_, decision)] = _decide(tx, [_Look(before, seen, since)])
            run = self._put(tx, before, decision)
            if run is not None and is_overdue and not run.settled:
                run = self._put(tx, run, transition.overdue(run, now=tx.now))
            if run is not None and expires:
                run = self._put(tx, run, _expired(run, tx.now))
            return run

        return self._told(before, await self._database.write(record))

    async def _record_all(self, looks: list[_Look]) -> list[Run | None]:
        def record(tx: Tx) -> list[Run | None]:
            decided = _decide(tx, looks)
            changes = [transitions.Change(look.before, decision) for look, decision in decided if decision is not None]
            made = transitions.record_all(tx, changes, node=self._node, keep=True)
            after = {change.before.id: run for change, run in zip(changes, made, strict=True)}
            return [after[look.before.id] if decision is not None else look.before for look, decision in decided]

        return await self._database.write(record)

    async def give_up(self, before: Run, lost: RunError | None) -> Run | None:
        """The run after the bridge's own verdict: lost for this reason, else expired."""

        def record(tx: Tx) -> Run | None:
            decision = transition.settle(before, RunStatus.LOST, lost, now=tx.now) if lost else _expired(before, tx.now)
            return self._put(tx, before, decision)

        return self._told(before, await self._database.write(record))

    def _put(self, tx: Tx, before: Run, decision: transition.Decision | None) -> Run | None:
        if decision is None:
            return before
        return transitions.record(tx, before, decision, node=self._node, keep=True)

    def _told(self, before: Run, after: Run | None) -> Run | None:
        if after is not None and before.status is not after.status:
            self._metrics.of(self._metrics.transitions, self._connection.name, after.status.value).inc()
            self._log.info(
                "run.transitioned",
                run_id=after.id,
                provider_run_id=after.provider_run_id,
                before=before.status.value,
                after=after.status.value,
                provider_status=after.provider_status,
                polls=after.polls,
            )
        return after

    async def tell_health(self, turned: HealthChange) -> None:
        """Record and announce that the account's health has turned."""
        connection = self._connection

        def tell(tx: Tx) -> bool:
            return connections.change_health(
                tx, connection.name, provider=connection.provider, health=turned.health, reason=turned.reason
            )

        if await self._database.write(tell):
            event = EventType.CONNECTION_FAILING if turned.reason else EventType.CONNECTION_RECOVERED
            self._log.warning(event.value, reason=turned.reason)


def _decide(tx: Tx, looks: list[_Look]) -> list[tuple[_Look, transition.Decision | None]]:
    moved = sorted({look.before.id for look in looks if look.seen.progress != look.before.progress})
    wanting = endpoints.wanting_progress(tx, moved) if moved else set()
    return [(look, _decide_one(look, tx.now, wants_progress=look.before.id in wanting)) for look in looks]


def _decide_one(look: _Look, now: datetime, *, wants_progress: bool) -> transition.Decision | None:
    return transition.observe(look.before, look.seen, now=now, wants_progress=wants_progress, since=look.since)


def _expired(run: Run, now: datetime) -> transition.Decision | None:
    return transition.settle(run, RunStatus.EXPIRED, RunError(expired_message(run), "deadline"), now=now)


def expired_message(run: Run) -> str:
    """Why the bridge gave up on a run."""
    if run.deadline_at is None:
        return "the deadline for this run passed"
    waited = format_duration(round((run.deadline_at - run.registered_at).total_seconds()) or 1)
    return f"no outcome within the deadline of {waited}; the provider last said {run.provider_status or 'nothing'}"
