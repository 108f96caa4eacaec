"""Handle the result of a poll: record what changed, learn from an end, and decide when to poll next.

observed ──► as before ──► Continue
         └──► changed ───► recorded (run, events, deliveries) ──► goes on: Continue · settled: Drop
failed   ──► counted: Continue · lost or expired: recorded, Drop
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from bridge.domain import transition
from bridge.domain.connection import ConnectionHealth
from bridge.domain.errors import StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.frozen import frozen
from bridge.domain.observation import Observation, Observed, PollFailed, PollResult
from bridge.domain.run import Run, RunError, RunStatus
from bridge.domain.timestamps import format_duration, seconds_between
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.planner import Planner
from bridge.polling.schedule import READY_MAX, PollSchedule, TrackedRun
from bridge.polling.services import PollingServices
from bridge.store import connections, endpoints, runs
from bridge.store.batching import GROUP_MAX
from bridge.store.transaction import Tx

log = structlog.get_logger()
STORE_RETRY_S: Final = 5.0
COMPARED_MAX: Final = 2_000  # runs that a run is compared with before it is called overdue
BEHIND_MIN: Final = 2 * GROUP_MAX  # changes that are not recorded yet: one group being written, and the next


@frozen
class Continue:
    """Poll the run again in `delay_s` seconds; `reason` is for display."""

    delay_s: float
    reason: str


@frozen
class Drop:
    """Hold the run no longer: it is settled, was removed, or is leased to another node.

    `is_in_doubt`: it is not as it was taken to be. If this node still leases it, because a change was recorded whose
    answer was lost, it must be acquired again.
    """

    is_in_doubt: bool = False


NextStep = Continue | Drop


@dataclass(frozen=True, slots=True)
class _Change:
    """The change that one poll found of a run; `since` as in `transition.observe`."""

    before: Run
    seen: Observation
    since: datetime | None


class PollResults:
    """Handles the results of one connection; records only under its node's lease."""

    def __init__(
        self,
        client: ConnectionClient,
        planner: Planner,
        schedule: PollSchedule,
        services: PollingServices,
        *,
        node: str,
    ) -> None:
        self._client, self._name = client, client.connection.name
        self._planner = planner
        self._schedule = schedule
        self._database, self._clock, self._metrics = services.database, services.clock, services.metrics
        self._offer_of, self._tracing = services.offer_of, services.tracing
        self._node = node
        self._polls_observed = services.metrics.of(services.metrics.polls, self._name, "observed")
        self._poll_seconds = services.metrics.of(services.metrics.poll_seconds, self._name)
        self._log = log.bind(connection=self._name)  # bound once: binding is half of what a line costs
        self._changes = services.database.grouped(self._record_all)
        self._health_due = -math.inf
        self._is_recording_health = False

    @property
    def is_behind(self) -> bool:
        """Whether so many changes wait to be recorded that no further poll should begin."""
        return self._changes.pending >= BEHIND_MIN

    # -- one poll

    async def handle(self, tracked: TrackedRun, result: PollResult, now: float, *, is_listed: bool = False) -> NextStep:
        """Handle the result of a poll, or of a list, that ended at `now` (monotonic); return what to do with the run.

        The run must stay in flight until this returns: a list that shows it in between would be recorded as well.
        """
        if is_listed:
            self._client.missing_runs.note_found(tracked.run.id, now)
        else:
            polls = self._polls_observed
            if isinstance(result, PollFailed):
                polls = self._metrics.of(self._metrics.polls, self._name, result.kind)
            polls.inc()
            self._poll_seconds.observe(now - tracked.sent_at)
        if self._tracing is not None:
            self._tracing.polled(tracked.with_counters(), result, now - tracked.sent_at, is_listed=is_listed)
        try:
            if self._owes_health:
                await self.flush_health(now)
            if isinstance(result, Observed) and self._client.is_to_complete(result):
                result = await self._client.complete(tracked.run, result)
            if not self._schedule.holds(tracked):  # it was removed during the poll
                return Drop()
            if isinstance(result, PollFailed):
                return await self._failed(tracked, result, now)
            if result.remarks:
                self._metrics.of(self._metrics.remarks, self._name).inc()
            goes_on = not result.observation.status.is_settled
            tracked.note_answer(is_304=result.is_unchanged, is_listed=is_listed and goes_on)
            step = await self._observed(tracked, result, now)
        except StoreUnavailable as error:
            log.warning("observation.postponed", connection=self._name, run_id=tracked.run.id, reason=str(error))
            return Continue(STORE_RETRY_S, "the database could not be written")
        tracked.keep_response(result)
        return step

    async def _observed(self, tracked: TrackedRun, result: Observed, now: float) -> NextStep:
        run, seen, wall = tracked.run, result.observation, self._clock.now()
        is_known = tracked.is_known(seen)
        if not is_known and transition.has_started_again(run, seen):
            return await self._begin_again(tracked, seen)
        if seen.status is RunStatus.UNKNOWN:
            self._metrics.unmapped.labels(run.connection).inc()
        is_new_status = run.observed_at is None or seen.status is not run.status
        if not is_new_status:
            tracked.note_alive(seen)
        expires = transition.is_expired(run, wall, seen=seen.status)
        held = self._schedule.some(COMPARED_MAX)
        is_overdue = not is_new_status and self._planner.is_overdue(tracked, now, held)
        has_changed = not is_known and transition.has_changed(run, seen)
        if not (expires or is_overdue or has_changed):
            return self._continue(tracked, result, now)
        since = self._planner.began_at(tracked, result, wall, now) if is_new_status else None
        change = _Change(tracked.with_counters(), seen, since)
        after = await self._record(change, expires=expires, is_overdue=is_overdue)
        if is_new_status and after is not None:
            self._learn_end(tracked, result, now)
        if expires:
            self._planner.learn_given_up(tracked, now)
        if after is None or after.settled:
            return Drop(is_in_doubt=after is None)
        tracked.note_recorded(after, began_at=(wall, now) if is_new_status else None)
        return self._continue(tracked, result, now)

    async def _begin_again(self, tracked: TrackedRun, seen: Observation) -> NextStep:
        """Settle a run whose end was not seen before the provider started it again, and watch the new one."""
        before = tracked.with_counters()
        said = (
            f"the provider started this run again ({seen.generation} after {before.generation}); its end was not seen"
        )

        def record(tx: Tx) -> Run | None:
            after = self._put(
                tx, before, transition.settle(before, RunStatus.LOST, RunError(said, "started_again"), now=tx.now)
            )
            if after is not None:
                runs.watch_again(tx, after, self._client.connection.cadence.deadline_s)
            return after

        after = self._logged(before, await self._database.write(record))
        return Drop(is_in_doubt=after is None)

    def _continue(self, tracked: TrackedRun, result: Observed, now: float) -> Continue:
        plan = self._planner.plan(tracked, result, now)
        return Continue(plan.delay_s, plan.reason)

    def _learn_end(self, tracked: TrackedRun, result: Observed, now: float) -> None:
        seen, connection = result.observation, tracked.run.connection
        age_s = seconds_between(seen.started_at or seen.created_at, result.answered_at)
        late_s = self._planner.learn_end(tracked, seen, now, age_s=age_s)
        if seen.status.is_settled:
            self._metrics.of(self._metrics.polls_per_run, connection).observe(tracked.requests)
        if late_s is not None:
            self._metrics.of(self._metrics.noticed_delay, connection).observe(late_s)

    async def _failed(self, tracked: TrackedRun, failed: PollFailed, now: float) -> NextStep:
        wall = self._clock.now()
        tracked.note_failure(failed, wall, now)
        lost: RunError | None = None
        if transition.is_lost(tracked.with_counters(), wall):
            lost = RunError(f"the provider no longer knows this run ({failed.message})", "not_found")
        log.info(
            "poll.failed",
            connection=self._name,
            run_id=tracked.run.id,
            kind=failed.kind.value,
            reason=failed.message,
        )
        if lost or transition.is_expired(tracked.run, wall):
            if not lost:
                self._planner.learn_given_up(tracked, now)
            after = await self._give_up(tracked.with_counters(), lost, failed)
            if after is None or after.settled:
                return Drop(is_in_doubt=after is None)
            tracked.note_recorded(after)
        plan = self._planner.plan_retry(tracked, failed)
        return Continue(plan.delay_s, plan.reason)

    # -- recording

    async def _record(self, change: _Change, *, expires: bool, is_overdue: bool) -> Run | None:
        """The run after this change, recorded with its events; None if it is not ours any more."""
        if not (expires or is_overdue):
            return self._logged(change.before, await self._changes.submit(change))

        def record(tx: Tx) -> Run | None:
            [(_, decision)] = _decide(tx, [change])
            run = self._put(tx, change.before, decision)
            if run is not None and is_overdue and not run.settled:
                run = self._put(tx, run, transition.overdue(run, now=tx.now))
            if run is not None and expires:
                run = self._put(tx, run, _expired(run, tx.now))
            return run

        return self._logged(change.before, await self._database.write(record))

    def _record_all(self, tx: Tx, changes: list[_Change]) -> list[Run | None]:
        decided = _decide(tx, changes)
        to_record = [runs.RunChange(each.before, decision) for each, decision in decided if decision is not None]
        made = runs.record_decisions(tx, to_record, node=self._node, keep_lease=True, offer=self._offer_of())
        after = {each.before.id: run for each, run in zip(to_record, made, strict=True)}
        return [after[each.before.id] if decision is not None else each.before for each, decision in decided]

    async def _give_up(self, before: Run, lost: RunError | None, failed: PollFailed) -> Run | None:
        """The run after our own verdict: lost for this reason, otherwise expired."""

        def record(tx: Tx) -> Run | None:
            if lost:
                return self._put(tx, before, transition.settle(before, RunStatus.LOST, lost, now=tx.now))
            return self._put(tx, before, _expired(before, tx.now, failed))

        return self._logged(before, await self._database.write(record))

    def _put(self, tx: Tx, before: Run, decision: transition.Decision | None) -> Run | None:
        if decision is None:
            return before
        return runs.record_decision(tx, before, decision, node=self._node, keep_lease=True)

    def _logged(self, before: Run, after: Run | None) -> Run | None:
        if self._tracing is not None and after is not None:
            self._tracing.recorded(before, after, self._clock.now())
        if after is not None and before.status is not after.status:
            self._metrics.of(self._metrics.transitions, self._name, after.status.value).inc()
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

    # -- the health of the connection

    @property
    def _owes_health(self) -> bool:
        return self._client.health is not self._client.recorded_health

    def rest_s(self, now: float) -> float:
        """Seconds until the health of the connection is to be judged again, or its recording to be tried again."""
        record_s = self._health_due - now if self._owes_health and not self._is_recording_health else math.inf
        return min(record_s, self._client.unreadable.rest_s(now, len(self._schedule)))

    def witness(self, now: float) -> TrackedRun | None:
        """Another run to poll now, where only one was polled and has failed for long: it shows if it is the connection."""
        unreadable = self._client.unreadable
        if not unreadable.wants_witness(now, len(self._schedule)):
            return None
        others = (each for each in self._schedule.some(READY_MAX) if each.run.id not in unreadable.runs)
        return next((each for each in others if self._planner.may_poll(each, now)), None)

    async def flush_health(self, now: float) -> None:
        """Judge the client's health; record and announce it if it has changed and it is time, one change at a time."""
        self._client.judge_unreadable(now, runs_held=len(self._schedule))
        if self._is_recording_health:
            return
        self._is_recording_health = True
        try:
            while self._owes_health and now >= self._health_due:
                await self._try_to_record_health(self._client.health, self._client.reason)
        finally:
            self._is_recording_health = False

    async def _try_to_record_health(self, health: ConnectionHealth, reason: str | None) -> None:
        try:
            await self._record_health(health, reason)
        except StoreUnavailable as error:
            self._health_due = self._clock.monotonic() + STORE_RETRY_S
            log.warning("health.untold", connection=self._name, reason=str(error))
            return
        except Exception:  # the health of the connection must not hold up its runs
            log.exception("health.untold", connection=self._name)
        self._client.recorded_health = health

    async def _record_health(self, health: ConnectionHealth, reason: str | None) -> None:
        provider = self._client.connection.provider

        def record(tx: Tx) -> bool:
            return connections.change_health(tx, self._name, provider=provider, health=health, reason=reason)

        if await self._database.write(record):
            event = EventType.CONNECTION_FAILING if reason else EventType.CONNECTION_RECOVERED
            self._log.warning(event.value, reason=reason)


def _decide(tx: Tx, changes: list[_Change]) -> list[tuple[_Change, transition.Decision | None]]:
    moved = sorted({each.before.id for each in changes if each.seen.progress != each.before.progress})
    wanting = endpoints.runs_wanting_progress(tx, moved) if moved else set()
    return [(each, _decide_one(each, tx.now, wants_progress=each.before.id in wanting)) for each in changes]


def _decide_one(change: _Change, now: datetime, *, wants_progress: bool) -> transition.Decision | None:
    return transition.observe(change.before, change.seen, now=now, wants_progress=wants_progress, since=change.since)


def _expired(run: Run, now: datetime, failed: PollFailed | None = None) -> transition.Decision | None:
    return transition.settle(run, RunStatus.EXPIRED, RunError(expired_message(run, failed), "deadline"), now=now)


def expired_message(run: Run, failed: PollFailed | None = None) -> str:
    """Why the bridge gave up on a run; `failed` is its last poll if that failed."""
    if run.deadline_at is None:
        return "the deadline for this run passed"
    waited = format_duration(round((run.deadline_at - run.registered_at).total_seconds()) or 1)
    said = f"the provider last said {run.provider_status}" if run.provider_status else "no status was ever read"
    trouble = f"; the last poll failed ({failed.message})" if failed else ""
    return f"no outcome within the deadline of {waited}; {said}{trouble}"
