"""The poller of one connection: claims due runs, looks at each when its time comes, records what is new.

    claim ──► in hand ──(due, gate open)──► look ──► no news ──► next poll: in hand, or put back
                                              └──► news ─────► one transaction: run, transition, events, deliveries
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from bridge.domain import transition
from bridge.domain.cadence import next_poll
from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.instant import format_duration
from bridge.domain.observation import FailureKind, Observation, Observed, PollFailed, PollResult
from bridge.domain.run import Run, RunError, RunStatus
from bridge.store import connections, endpoints, runs, transitions
from bridge.store.database import Database
from bridge.store.transaction import Tx
from bridge.workers.account import Account, HealthChange
from bridge.workers.loop import Bell
from bridge.workers.metrics import Metrics
from bridge.workers.watch import Hand, Watch

log = structlog.get_logger()
HORIZON_S = 15.0  # runs due within this are claimed; those due later stay in the database
KEEP_S = 30.0  # a run due within this stays in hand between polls
HAND_MAX = 20_000
CLAIM_MAX = 1_000
PUT_BACK_EVERY_S = 1.0
STORE_RETRY_S = 5.0
CRASH_RETRY_S = 60.0
UNHEARD_S = 5.0  # where there may be other nodes, their claims lapse or come back without a bell ringing here
ALONE_S = 3600.0


class Poller:
    """Watches the runs of one account."""

    def __init__(  # noqa: PLR0913 - the floor plan of the worker
        self,
        account: Account,
        *,
        database: Database,
        clock: Clock,
        node: str,
        metrics: Metrics,
        on_settled: Callable[[Run], None] = lambda _run: None,
    ) -> None:
        self.account = account
        self.bell = Bell()
        self.hand = Hand()
        self._database = database
        self._clock = clock
        self._node = node
        self._metrics = metrics
        self._on_settled = on_settled
        self._name = account.connection.name
        self._tasks: set[asyncio.Task[None]] = set()
        self._put_back: list[Watch] = []
        self._put_back_due = 0.0
        self._claim_due = 0.0  # monotonic: when the database is next asked for due runs
        self._has_news = True  # a run became due since the database was last asked
        self._is_draining = False

    # -- the pass

    async def run_pass(self) -> float:
        """Put back, claim, look at what is due; seconds until there is something to do."""
        await self._flush_put_back(self._clock.monotonic())
        await self._claim()
        now = self._clock.monotonic()
        while not self._is_draining and self.account.opens_in_s(now) <= 0:
            watch = self.hand.take_due(now)
            if watch is None:
                break
            self._start(watch, now)
        return self._rest_s(self._clock.monotonic())

    def _rest_s(self, now: float) -> float:
        waits = [0.0 if self._has_news else self._claim_due - now]
        if self._put_back:
            waits.append(self._put_back_due - now)
        due = self.hand.next_due()
        if due is not None:
            waits.append(max(due - now, self.account.opens_in_s(now)))
        return max(0.0005, min(waits))

    async def _claim(self) -> None:
        now = self._clock.monotonic()
        is_time = self._has_news or now >= self._claim_due
        if self._is_draining or not is_time or len(self.hand) >= HAND_MAX:
            return
        self._has_news = False  # before asking: what is announced meanwhile counts for the next pass
        try:
            await self._claim_from_database(now)
        except StoreUnavailable:
            self._has_news = True
            raise

    async def _claim_from_database(self, now: float) -> None:
        limit = min(CLAIM_MAX, HAND_MAX - len(self.hand))

        def claim(tx: Tx) -> tuple[list[Run], datetime | None, datetime]:
            until = tx.now + timedelta(seconds=HORIZON_S)
            found = runs.claim_due(tx, node=self._node, connection=self._name, until=until, limit=limit)
            return found, runs.next_due_at(tx, self._name), tx.now

        due_at = await self._database.read(lambda tx: runs.next_due_at(tx, self._name))
        claimed: list[Run] = []
        wall = self._clock.now()
        if due_at is not None and due_at <= wall + timedelta(seconds=1):
            claimed, due_at, wall = await self._database.write(claim)
        for run in claimed:
            self.hand.hold(Watch(run, now + ((run.next_poll_at or wall) - wall).total_seconds()))
        wait_s = math.inf if due_at is None else (due_at - wall).total_seconds()
        rest_max_s = ALONE_S if self._database.is_sqlite else UNHEARD_S
        self._claim_due = now + max(0.0 if len(claimed) == limit else 0.05, min(wait_s, rest_max_s))

    def expect_due(self) -> None:
        """Somebody registered a run or made one due: look into the database at once."""
        self._has_news = True
        self.bell.ring()

    # -- one look

    def _start(self, watch: Watch, now: float) -> None:
        watch.is_in_flight = True
        watch.count_poll(self._clock.now())
        self.account.gate.enter(now)
        task = asyncio.create_task(self._look(watch), name=f"poll:{watch.run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, watch: Watch) -> None:
        started = self._clock.monotonic()
        try:
            result = await self.account.look_at(watch.run)
        finally:
            self.account.gate.leave()
            watch.is_in_flight = False
            self.bell.ring()
        self._metrics.poll_seconds.labels(self._name).observe(self._clock.monotonic() - started)
        outcome = "observed" if isinstance(result, Observed) else result.kind.value
        self._metrics.polls.labels(self._name, outcome).inc()
        try:
            await self._take_in(watch, result)
        except StoreUnavailable as error:
            log.warning("observation.postponed", connection=self._name, run_id=watch.run.id, reason=str(error))
            self._schedule(watch, STORE_RETRY_S, "the database could not be written")
        except Exception:  # like the loop: one run's trouble must not end its being watched
            log.exception("poll.crashed", connection=self._name, run_id=watch.run.id)
            self._schedule(watch, CRASH_RETRY_S, "the last look failed inside the bridge")
        self.bell.ring()

    async def _take_in(self, watch: Watch, result: PollResult) -> None:
        if self.hand.get(watch.run.id) is not watch:
            return  # no longer watched
        turned = self.account.judge(result, self._clock.monotonic(), runs_in_hand=len(self.hand))
        if turned is not None:
            await self._tell_health(turned)
        match result:
            case Observed():
                await self._observed(watch, result)
            case PollFailed():
                await self._failed(watch, result)

    async def _observed(self, watch: Watch, result: Observed) -> None:
        watch.failure_streak = watch.not_found_count = 0
        watch.not_found_since = None
        seen, now = result.observation, self._clock.now()
        if seen.status is RunStatus.UNKNOWN:
            self._metrics.unmapped.labels(self._name).inc()
        expires = not seen.status.is_settled and transition.is_expired(replace(watch.run, status=seen.status), now)
        if not expires and not transition.has_news(watch.run, seen):
            self._schedule_next(watch, result.poll_after_s)
            return
        await self._record(watch, seen, expires=expires)
        if self.hand.get(watch.run.id) is watch:
            self._schedule_next(watch, result.poll_after_s)

    async def _record(self, watch: Watch, seen: Observation | None, *, expires: bool, lost: RunError | None = None) -> None:
        before = self._with_counters(watch)

        def record(tx: Tx) -> Run | None:
            run: Run | None = before
            if seen is not None:
                wants = seen.progress != before.progress and endpoints.anyone_wants_progress(tx, before.id)
                decision = transition.observe(before, seen, now=tx.now, wants_progress=wants)
                if decision is not None:
                    run = transitions.record(tx, before, decision, node=self._node, keep=True)
            verdict = RunStatus.EXPIRED if expires else RunStatus.LOST
            error = lost or RunError(expired_message(before), "deadline")
            if run is not None and (expires or lost):
                decision = transition.settle(run, verdict, error, now=tx.now)
                run = run if decision is None else transitions.record(tx, run, decision, node=self._node, keep=True)
            return run

        after = await self._database.write(record)
        if after is None:  # deleted meanwhile, or another node has it
            self.hand.drop(before.id)
            return
        watch.run = after
        self._log_change(before, after)
        if after.settled:
            self.hand.drop(after.id)
            self._on_settled(after)

    def _log_change(self, before: Run, after: Run) -> None:
        if before.status is after.status:
            return
        self._metrics.transitions.labels(self._name, after.status.value).inc()
        log.info(
            "run.transitioned",
            run_id=after.id,
            connection=self._name,
            provider_run_id=after.provider_run_id,
            before=before.status.value,
            after=after.status.value,
            provider_status=after.provider_status,
            polls=after.polls,
        )

    def _with_counters(self, watch: Watch) -> Run:
        return replace(
            watch.run,
            polls=watch.polls,
            last_polled_at=watch.last_polled_at,
            failure_streak=watch.failure_streak,
            not_found_count=watch.not_found_count,
            not_found_since=watch.not_found_since,
        )

    async def _failed(self, watch: Watch, failed: PollFailed) -> None:
        now = self._clock.now()
        watch.failure_streak += 1
        lost: RunError | None = None
        if failed.kind is FailureKind.NOT_FOUND:
            watch.not_found_count += 1
            watch.not_found_since = watch.not_found_since or now
            if transition.is_lost(self._with_counters(watch), now):
                lost = RunError(f"the provider no longer knows this run ({failed.message})", "not_found")
        else:  # any other answer breaks the row of 404s
            watch.not_found_count, watch.not_found_since = 0, None
        log.info(
            "poll.failed", connection=self._name, run_id=watch.run.id, kind=failed.kind.value, reason=failed.message
        )
        if lost or transition.is_expired(watch.run, now):
            await self._record(watch, None, expires=lost is None, lost=lost)
        if self.hand.get(watch.run.id) is watch:
            self._schedule_next(watch, failed.retry_after_s)

    async def _tell_health(self, turned: HealthChange) -> None:
        def tell(tx: Tx) -> bool:
            return connections.change_health(
                tx, self._name, provider=self.account.connection.provider, health=turned.health, reason=turned.reason
            )

        if await self._database.write(tell):
            event = EventType.CONNECTION_FAILING if turned.reason else EventType.CONNECTION_RECOVERED
            log.warning(event.value, connection=self._name, reason=turned.reason)

    # -- when next

    def _schedule_next(self, watch: Watch, poll_after_s: float | None) -> None:
        now = self._clock.now()
        plan = next_poll(
            self.account.connection.cadence.overridden_by(watch.run.cadence),
            status=watch.run.status,
            age_s=max(0.0, (now - watch.run.status_since).total_seconds()),
            failure_streak=watch.failure_streak,
            poll_after_s=poll_after_s,
        )
        self._schedule(watch, plan.delay_s, plan.reason)

    def _schedule(self, watch: Watch, delay_s: float, reason: str) -> None:
        now = self._clock.now()
        left_s = self._left_s(watch.run, now)
        if left_s < delay_s:
            delay_s, reason = left_s, "its deadline"
        watch.next_poll_at = now + timedelta(seconds=delay_s)
        watch.reason = reason
        watch.due = self._clock.monotonic() + delay_s
        if self.hand.get(watch.run.id) is not watch:
            return
        if delay_s <= KEEP_S and not self._is_draining:
            self.hand.hold(watch)
            return
        self.hand.drop(watch.run.id)
        if not self._put_back:
            self._put_back_due = self._clock.monotonic() + PUT_BACK_EVERY_S
        self._put_back.append(watch)

    def _left_s(self, run: Run, now: datetime) -> float:
        """Seconds to the run's deadline, for a last look just after it; infinity where none is near."""
        stands_still = run.status is RunStatus.WAITING and not run.deadline_is_fixed
        if run.deadline_at is None or stands_still or run.deadline_at <= now:
            return math.inf
        least_s = self.account.connection.cadence.overridden_by(run.cadence).min_interval_s
        return max((run.deadline_at - now).total_seconds() + 0.001, least_s)

    async def _flush_put_back(self, now: float) -> None:
        if not self._put_back or now < self._put_back_due:
            return
        leaving, self._put_back = self._put_back, []
        try:
            await self._database.write(
                lambda tx: runs.put_back(tx, node=self._node, records=[watch.record() for watch in leaving])
            )
        except StoreUnavailable:
            self._put_back = leaving + self._put_back
            self._put_back_due = now + STORE_RETRY_S
            raise
        soonest = min((w.due for w in leaving if w.next_poll_at), default=math.inf)
        self._claim_due = min(self._claim_due, soonest)

    # -- from outside

    def live(self, run_id: str) -> Watch | None:
        """The run's watch if it is in hand or on its way back: fresher than the database."""
        return self.hand.get(run_id) or next((w for w in self._put_back if w.run.id == run_id), None)

    def poll_now(self, run_id: str) -> None:
        """Look at a run at once, whatever its schedule says."""
        watch = self.hand.get(run_id)
        if watch is not None and not watch.is_in_flight:
            watch.due, watch.reason = self._clock.monotonic(), "asked for"
            watch.next_poll_at = self._clock.now()
            self.hand.hold(watch)
        self.expect_due()

    def forget(self, run_id: str) -> None:
        """Stop holding a run that was removed or settled elsewhere."""
        self.hand.drop(run_id)
        self._put_back = [w for w in self._put_back if w.run.id != run_id]

    async def drain(self) -> None:
        """Stop looking (a GET cut short harms nobody) and put everything back."""
        self._is_draining = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._put_back += self.hand.all()
        for watch in self.hand.all():
            self.hand.drop(watch.run.id)
        self._put_back_due = 0.0
        await self._flush_put_back(self._clock.monotonic())


def expired_message(run: Run) -> str:
    """Why the bridge gave up on a run."""
    if run.deadline_at is None:
        return "the deadline for this run passed"
    waited = format_duration(round((run.deadline_at - run.registered_at).total_seconds()) or 1)
    return f"no outcome within the deadline of {waited}; the provider last said {run.provider_status or 'nothing'}"
