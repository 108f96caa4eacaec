"""The poller of one connection: acquires due runs, polls each when its time comes, and records what changed.

acquire ──► planned ──(due, limiter open, most urgent first)──► poll ──► Continue ──► planned again, or released
                                                                    └──► Drop
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Final

import structlog

from bridge.cluster.lease_guard import LeaseGuard
from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.leased_delivery import DeliveryOffer
from bridge.domain.observation import Observed, PollFailed, PollResult
from bridge.domain.run import Run
from bridge.polling.connection_client import ConnectionClient, HealthChange
from bridge.polling.duration_learner import LearnedState
from bridge.polling.list_poller import LIST_WAIT_S, ListPoller, Seen
from bridge.polling.planner import Planner
from bridge.polling.poll_results import CRASHED, Continue, Drop, NextStep, PollResults
from bridge.polling.run_leases import GATHER_S, RunLeases
from bridge.polling.schedule import RANK_EVERY_S, READY_MAX, PollSchedule, TrackedRun
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics
from bridge.store.database import Database
from bridge.store.runs import LeaseOffer

log = structlog.get_logger()
KEEP_S: Final = 30.0  # a run due within this stays held between polls …
KEPT_MAX: Final = 2_000  # … and any, to be planned again when others end, while no more than these are held
COMPARED_MAX: Final = 2_000  # runs that a run is compared with before it is called overdue
GUARDED_REST_S: Final = 0.5
REST_MIN_S: Final = 0.0005
SHOWN_MAX_S: Final = 1e8  # a later opening depends on other requests


class Poller:
    """Watches the runs of one connection."""

    def __init__(
        self,
        client: ConnectionClient,
        *,
        learned: LearnedState,
        database: Database,
        clock: Clock,
        node: str,
        metrics: Metrics,
        lease_guard: LeaseGuard,
        offer_of: Callable[[], DeliveryOffer | None] = lambda: None,
    ) -> None:
        connection = client.connection
        self.client = client
        self.bell = Bell()
        self.schedule = PollSchedule(connection, client.limiter, clock)
        self.planner = Planner(connection.cadence, learned.learner)
        self.results = PollResults(
            connection, self.planner, database, node=node, clock=clock, metrics=metrics, offer_of=offer_of
        )
        self.leases = RunLeases(
            database, self.schedule, client.limiter, node=node, connection=connection.name, clock=clock
        )
        self.lists: ListPoller | None = None
        if client.provider.lists:
            self.lists = ListPoller(
                client, self.schedule, self.planner, database=database, clock=clock, metrics=metrics
            )
        self._offer_of = offer_of
        self._learned = learned
        self.lease_guard = lease_guard
        self._clock = clock
        self._metrics = metrics
        self._name = connection.name
        self._is_alone = database.is_sqlite
        self._tasks: set[asyncio.Task[None]] = set()
        self._replan_due = 0.0
        self._is_draining = False

    # -- the pass

    async def run_pass(self) -> float:
        """Write what waits to be written, acquire runs, and poll those that are due; seconds until the next pass."""
        now = self._clock.monotonic()
        try:
            if (failing := self.client.find_unreadable(now, runs_held=len(self.schedule))) is not None:
                await self.results.report_health(failing)
            await self.results.flush_health(now)
            await self.leases.flush(now)
            await self._learned.save_if_due(now)
            await self._acquire()
        except StoreUnavailable:
            self.leases.doubt()
            raise
        now = self._clock.monotonic()
        self._replan(now)
        if not self.lease_guard.is_open:
            return GUARDED_REST_S
        self._start_requests(now)
        self._queue_at_limiter(now)
        return self._rest_s(self._clock.monotonic())

    async def _acquire(self) -> None:
        if self._is_draining:
            return
        for run_id in await self.leases.find_lost(self._clock.monotonic()):
            self.forget(run_id)
        for tracked in await self.leases.acquire():
            self.schedule.add(tracked)
        if self.client.limiter.is_shut:
            self._release_idle()

    def _start_requests(self, now: float) -> None:
        while not self._is_draining and self._opens_in_s(now) <= 0 and self.lease_guard.is_open:
            if (due := self.schedule.take_to_rank(now)) is not None:
                if len(due) > 1:
                    self.planner.refit(self.schedule.some(READY_MAX))
                self.schedule.set_ready(self.planner.rank(due, now), now)
            if self.lists is not None and self.lists.rest_s(now) <= 0 and self._list_goes_first(self.lists, now):
                self._start_list(now)
                continue
            tracked = self.schedule.take_ready(now)
            if tracked is None:
                return
            decision = None if self.lists is None else self.lists.decide(tracked, now)
            if decision is None:
                tracked.start_poll(self._clock.now(), now)
                self.client.limiter.send(now, self._name)
                self._spawn(self._poll(tracked), f"poll:{tracked.run.id}")
                if self._is_outranked:
                    return
            elif isinstance(decision, Seen):
                self._take_seen(decision)
            else:
                self.schedule.postpone(tracked, decision.until)
                if decision.sends_list:
                    self._start_list(now)

    @property
    def _is_outranked(self) -> bool:
        """Whether a pass begins one poll only, so that each turn of the loop serves the deliveries that wait."""
        offer = self._offer_of()
        return offer is not None and offer.is_behind()

    def _queue_at_limiter(self, now: float) -> None:
        waits = self.schedule.next_due() <= now or self.leases.is_held_up
        is_probing = self.client.is_probing and self.client.limiter.in_flight
        may_poll = not (self._is_draining or self.results.is_behind or is_probing)
        self.schedule.queue_at_limiter(self.bell.ring, waits=waits and may_poll)

    def _rest_s(self, now: float) -> float:
        polls_s = max(self.schedule.next_due(), self.schedule.turn_due) - now
        waits = [
            self.leases.rest_s(now),
            self.results.health_rest_s(now),
            self._learned.rest_s(now),
            max(polls_s, self._opens_in_s(now)),
            self._list_rest_s(now),
        ]
        if self.planner.learner.changed:
            waits.append(self._replan_due - now)
        return max(REST_MIN_S, min(waits))

    def _opens_in_s(self, now: float) -> float:
        """Seconds until a poll may begin; infinity while results wait to be recorded, which rings the bell."""
        return math.inf if self.results.is_behind else self.client.opens_in_s(now)

    def _list_rest_s(self, now: float) -> float:
        return math.inf if self.lists is None else max(self.lists.rest_s(now), self._opens_in_s(now))

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one poll, one list

    async def _poll(self, tracked: TrackedRun) -> None:
        try:
            result = await self.client.poll(tracked.run, tracked.last_response)
        except BaseException as error:  # cancelled when the daemon ends, or broken: the limiter gets its slot back
            self.client.limiter.give_up()
            tracked.end_poll()
            if not isinstance(error, Exception):
                raise
            log.exception("poll.crashed", connection=self._name, run_id=tracked.run.id)
            self._apply(tracked, CRASHED)
            self.bell.ring()
            return
        now = self._clock.monotonic()
        health = self.client.judge(
            result, sent_at=tracked.sent_at, now=now, runs_held=len(self.schedule), run_id=tracked.run.id
        )
        if self.client.take_recovery():
            self._replan_after_outage(now)
        outcome = result.kind.value if isinstance(result, PollFailed) else "observed"
        self._metrics.note_poll(self._name, outcome, now - tracked.sent_at)
        self.bell.ring()
        await self._handle(tracked, result, now, health)

    def _list_goes_first(self, lists: ListPoller, now: float) -> bool:
        """Whether a list that is due goes before the polls: where requests are scarce, only if it is worth more."""
        return not self.schedule.is_scarce or lists.worth_s(now) >= self.schedule.top_worth_s

    def _start_list(self, now: float) -> None:
        assert self.lists is not None
        for tracked in self.lists.begin(now):
            self.schedule.postpone(tracked, now + LIST_WAIT_S)
        self._spawn(self._read_list(self.lists, now), f"list:{self._name}")

    async def _read_list(self, lists: ListPoller, sent_at: float) -> None:
        async with contextlib.aclosing(lists.read(sent_at)) as results:
            async for page in results:
                for seen in page.seen:
                    self._take_seen(seen)
                for tracked in page.needs_poll:
                    self.schedule.poll_now(tracked)
                if page.health is not None:
                    await self.results.report_health(page.health)
                self.bell.ring()

    def _take_seen(self, seen: Seen) -> None:
        """Handle what a list shows of a run as if the run had been polled by itself."""
        self.client.missing_runs.note_found(seen.tracked.run.id, self._clock.monotonic())
        seen.tracked.start_poll(self._clock.now(), seen.sent_at, is_listed=True)
        handling = self._handle(seen.tracked, seen.result, self._clock.monotonic())
        self._spawn(handling, f"listed:{seen.tracked.run.id}")

    async def _handle(
        self, tracked: TrackedRun, result: PollResult, now: float, health: HealthChange | None = None
    ) -> None:
        step: NextStep = CRASHED
        try:
            if health is not None:
                await self.results.report_health(health)
            if isinstance(result, Observed):
                if result.remarks:
                    self._metrics.of(self._metrics.remarks, self._name).inc()
                result = await self.client.complete(tracked.run, result)
            if self.schedule.holds(tracked):  # it may have been removed since
                step = await self.results.handle(tracked, result, now, self.schedule.some(COMPARED_MAX))
        except Exception:  # like the loop: trouble with one run must not end its being watched
            log.exception("poll.crashed", connection=self._name, run_id=tracked.run.id)
        finally:
            tracked.end_poll()
        self._apply(tracked, step)
        self.bell.ring()

    # -- when next

    def _apply(self, tracked: TrackedRun, step: NextStep) -> None:
        if not self.schedule.holds(tracked):
            return
        match step:
            case Continue():
                self._plan(tracked, step.delay_s, step.reason)
            case Drop():
                self.forget(tracked.run.id)

    def _plan(self, tracked: TrackedRun, delay_s: float, reason: str) -> None:
        left_s = self.planner.deadline_in_s(tracked, self._clock.now())
        if left_s < delay_s:
            delay_s, reason = left_s, "its deadline"
        is_near = delay_s <= KEEP_S or len(self.schedule) <= KEPT_MAX
        keeps = is_near or (self.lists is not None and self.lists.shows(tracked.run.id))
        keeps = keeps and not self._is_draining and not self.client.limiter.is_shut
        self.schedule.plan(tracked, delay_s, reason, keep=keeps)
        if keeps:
            self.leases.keep_pause(tracked, self._clock.monotonic())
        else:
            self.leases.release(tracked, self._clock.monotonic() + GATHER_S)

    def _replan(self, now: float) -> None:
        """Plan again the runs like those that have ended: what these taught changes when to poll the others."""
        if not self.planner.learner.changed or now < self._replan_due:
            return
        self._replan_due = now + RANK_EVERY_S
        if self.lists is not None:
            self.lists.replan()
        self.planner.refit(self.schedule.some(READY_MAX))
        for tracked in [each for each in self.schedule.some(READY_MAX) if each.is_planned]:
            if (plan := self.planner.replan(tracked, now)) is not None:
                self._plan(tracked, plan.delay_s, plan.reason)
        self.planner.learner.changed.clear()

    def _replan_after_outage(self, now: float) -> None:
        """Make the runs due whose polls failed during the outage; the limiter lets the most urgent go first."""
        for tracked in [each for each in self.schedule.all() if each.is_planned]:
            if (plan := self.planner.replan_after_outage(tracked, now)) is not None:
                self._plan(tracked, plan.delay_s, plan.reason)

    # -- from outside

    def lease_offer(self) -> LeaseOffer | None:
        """How many runs this poller would poll at once if they were registered now; None if none."""
        if self._is_draining or not self.lease_guard.is_open:
            return None
        return self.leases.offer(self._clock.monotonic())

    def take(self, run: Run) -> None:
        """Hold a run that was registered under our lease."""
        if not self._is_draining:
            now = self._clock.monotonic()
            self.schedule.add(TrackedRun(run, now, now=self._clock.now(), monotonic=now))
            self.bell.ring()

    def expect_due(self) -> None:
        """A run became due in the database: acquire it at once."""
        self.leases.expect()
        self.bell.ring()

    def live(self, run_id: str) -> TrackedRun | None:
        """The run as this node has it in memory, fresher than the database."""
        return self.schedule.get(run_id) or self.leases.get(run_id)

    def next_poll(self, run: Run) -> tuple[datetime | None, str | None]:
        """When the run is polled next, as far as is known now, and why then: for people."""
        now, wall, tracked = self._clock.monotonic(), self._clock.now(), self.live(run.id)
        due_at, reason = (run.next_poll_at, None) if tracked is None else (tracked.next_poll_at, tracked.reason)
        if due_at is None or (tracked is None and not self._is_alone):  # perhaps another node has it
            return due_at, reason
        listed_s = self.lists.shows_in_s(run.id, now) if tracked is not None and self.lists else math.inf
        if tracked is not None and tracked.is_in_flight:
            return wall, "it is being polled"
        if listed_s < (due_at - wall).total_seconds():
            return wall + timedelta(seconds=listed_s), "a list is worth a request then, and shows this run too"
        if due_at > wall:
            return due_at, reason
        opens_in_s, ready = self.client.opens_in_s(now), self.schedule.ready_count
        if self.client.is_probing:
            reason = "its provider fails, and is asked again then"
        elif opens_in_s > 0 or ready:
            reason = f"it is due, and waits for its turn at the connection's limit ({ready} wait in all)"
        return wall + timedelta(seconds=opens_in_s if opens_in_s < SHOWN_MAX_S else 0.0), reason

    def poll_now(self, run_id: str) -> None:
        """Poll a run at once, whatever its plan says."""
        if (tracked := self.schedule.get(run_id)) is not None:
            self.schedule.poll_now(tracked, "asked for")
        elif (tracked := self.leases.get(run_id)) is not None:  # its release must not write a later due time
            tracked.plan(self._clock.monotonic(), self._clock.now(), "asked for")
            self.leases.release(tracked, tracked.due)
        self.expect_due()

    def forget(self, run_id: str) -> None:
        """Hold a run no longer, and write nothing of it: it is settled, was removed, or is not ours."""
        self.schedule.remove(run_id)
        self.leases.forget(run_id)
        self.client.missing_runs.forget(run_id)

    def rebalance(self) -> None:
        """The number of nodes has changed: release every run, so that each node acquires its part."""
        self._release_idle()
        self.expect_due()

    def _release_idle(self) -> None:
        for tracked in self.schedule.all():
            if not tracked.is_in_flight:
                self._release(tracked)

    def _release(self, tracked: TrackedRun) -> None:
        self.schedule.remove(tracked.run.id)
        self.client.missing_runs.forget(tracked.run.id)
        self.leases.release(tracked, self._clock.monotonic())

    def rebase(self, jump_s: float) -> None:
        """The wall clock jumped by so much: ages go on as they were, and runs that span the jump teach nothing."""
        for tracked in (*self.schedule.all(), *self.leases.releasing()):
            tracked.rebase(jump_s)
        self.expect_due()

    async def drain(self) -> None:
        """Stop polling (a GET cut short does no harm), save what was learned, and release every run."""
        await self.abandon()
        for tracked in self.schedule.all():
            self._release(tracked)
        await self.leases.flush(math.inf)
        await self._learned.save()

    async def abandon(self) -> None:
        """Stop polling and write nothing more: the leases are lost."""
        self._is_draining = True
        self.client.limiter.forget(self._name)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
