"""The poller of one connection: claims due runs, looks at each when its time comes, records what is new.

claim ──► in hand ──(due, gate open, most urgent first)──► look ──► no news ──► planned anew: in hand, or put back
                                                             └──► news ──► one transaction: run, event, deliveries
"""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta
from typing import Final

import structlog

from bridge.cluster.lease_guard import LeaseGuard
from bridge.domain.clock import Clock
from bridge.domain.connection import ConnectionHealth
from bridge.domain.errors import StoreUnavailable
from bridge.domain.observation import Observed, PollFailed, PollResult
from bridge.domain.run import Run
from bridge.polling.connection_client import ConnectionClient, HealthChange
from bridge.polling.discovery import Discovery
from bridge.polling.duration_learner import DurationLearner, Lessons
from bridge.polling.line import RANK_EVERY_S, RANKED_MAX, Line
from bridge.polling.list_poller import ListPoller
from bridge.polling.planner import Planner
from bridge.polling.poll_results import CRASH_RETRY_S, STORE_RETRY_S, Intake, Recorder
from bridge.polling.run_leases import GATHER_S, Claiming, Claims, Returns
from bridge.polling.schedule import Hand, Watch
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics
from bridge.store.database import Database

log = structlog.get_logger()
KEEP_S: Final = 30.0  # a run due within this stays in hand between polls …
KEPT_MAX: Final = 2_000  # … and any, to be planned anew when others end, while there are no more than these
SAVE_EVERY_S: Final = 10.0  # what was learned; losing it is harmless
FENCED_REST_S: Final = 0.5
SHOWN_MAX_S: Final = 1e8  # later, or never by itself: when depends on other requests


class Poller:
    """Watches the runs of one account."""

    def __init__(
        self,
        client: ConnectionClient,
        *,
        database: Database,
        clock: Clock,
        node: str,
        metrics: Metrics,
        learner: DurationLearner | None = None,
        lease_guard: LeaseGuard | None = None,
    ) -> None:
        self.client = client
        self.bell = Bell()
        self.hand = Hand()
        self.planner = Planner(client.connection.cadence, learner or DurationLearner())
        self._recorder = Recorder(client.connection, database, node, metrics)
        self._intake = Intake(self.hand, self.planner, self._recorder, self._schedule, clock=clock, metrics=metrics)
        claims = Claims(database, node, client.connection.name)
        self._returns = Returns(claims, self.hand)
        self._claiming = Claiming(
            claims, self.hand, self._returns, client.limiter, clock=clock, is_alone=database.is_sqlite
        )
        self._lessons = Lessons(self.planner.learner, client.limiter.rate_limit, database, client.connection.name)
        self._lease_guard = lease_guard or LeaseGuard(clock)
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._name = client.connection.name
        self._tasks: set[asyncio.Task[None]] = set()
        self._line = Line(client, self.hand, self.planner, clock=clock)
        self._save_due = 0.0
        self._plan_anew_due = 0.0
        self._is_draining = False
        self._untold: HealthChange | None = None
        self._tell_due = 0.0
        discovery = Discovery(client.connection, database) if client.connection.discover else None
        lists = client.provider.lists
        self._list_poller = ListPoller(self, clock=clock, metrics=metrics, discovery=discovery) if lists else None

    # -- the pass

    async def run_pass(self) -> float:
        """Put back, save, claim, look at what is due; seconds until there is something to do."""
        try:
            await self._tell_untold(self._clock.monotonic())
            await self._flush(self._clock.monotonic())
            await self._claim()
        except StoreUnavailable:
            self._claiming.doubt()
            raise
        now = self._clock.monotonic()
        self._plan_anew(now)
        if not self._lease_guard.is_open:
            return FENCED_REST_S
        if self._list_poller is not None and not self._is_draining and self._list_rest_s(now) <= 0:
            self._list_poller.send(now)
        while not self._is_draining and self._opens_in_s(now) <= 0 and self._lease_guard.is_open:
            watch = self._line.next(now)
            if watch is None:
                break
            if self._list_poller is None or not self._list_poller.takes(watch, now):
                self._start(watch, now)
        self._stand_in_line(now)
        return self._rest_s(self._clock.monotonic())

    def _stand_in_line(self, now: float) -> None:
        """Let the gate know of what waits here, for other connections of this credential to take turns with it."""
        next_due = self.hand.next_due()
        waits = bool(self._line) or (next_due is not None and next_due <= now) or self._claiming.is_held_up
        is_probing = self.client.health is ConnectionHealth.FAILING and self.client.limiter.in_flight
        may_go = not (self._is_draining or self._recorder.is_behind or is_probing)
        self._line.stand(self.bell.ring, waits=waits and may_go)

    def _rest_s(self, now: float) -> float:
        waits = [self._claiming.rest_s(now), self._returns.rest_s(now)]
        if self._untold is not None:
            waits.append(self._tell_due - now)
        if self.planner.learner.has_lessons:
            waits.append(self._save_due - now)
        due = now if self._line else self.hand.next_due()
        if due is not None:
            waits.append(max(due - now, self._opens_in_s(now), self._line.turn_due - now))
        if self.planner.learner.changed:
            waits.append(self._plan_anew_due - now)
        waits.append(self._list_rest_s(now))
        return max(0.0005, min(waits))

    def _opens_in_s(self, now: float) -> float:
        """Seconds until a look may begin; a look whose news was written rings the bell."""
        return math.inf if self._recorder.is_behind else self.client.opens_in_s(now)

    def _list_rest_s(self, now: float) -> float:
        if self._list_poller is None:
            return math.inf
        return max(self._list_poller.rest_s(now), self._opens_in_s(now))

    async def _claim(self) -> None:
        if not self._is_draining:
            for run_id in await self._claiming.compare(self._clock.monotonic()):
                self.forget(run_id)
            await self._claiming.claim()

    def expect_due(self) -> None:
        """Somebody registered a run or made one due: look into the database at once."""
        self._claiming.expect()
        self.bell.ring()

    # -- one look

    def _start(self, watch: Watch, now: float) -> None:
        watch.is_in_flight = True
        watch.count_poll(self._clock.now(), now)
        self.client.limiter.send(now, self._name)
        task = asyncio.create_task(self._look(watch), name=f"poll:{watch.run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, watch: Watch) -> None:
        try:
            result = await self.client.look_at(watch.run, watch.etag, watch.body)
        except BaseException:  # cancelled at the end of the daemon, or broken: the gate's seat comes back
            self.client.limiter.give_up()
            watch.is_in_flight = False
            raise
        now = self._clock.monotonic()
        turned = self.client.judge(result, sent_at=watch.sent_at, now=now, runs_in_hand=len(self.hand))
        if self.client.has_recovered:
            self._catch_up(now)
        outcome = result.kind.value if isinstance(result, PollFailed) else "observed"
        self._metrics.note_poll(self._name, outcome, now - watch.sent_at)
        self.bell.ring()
        await self._take_in(watch, result, now, turned)

    async def take_listed(self, watch: Watch, seen: Observed) -> None:
        """Take in what a list shows of a run, as if it had been looked at by itself."""
        await self._take_in(watch, seen, self._clock.monotonic())

    async def _take_in(self, watch: Watch, result: PollResult, now: float, turned: HealthChange | None = None) -> None:
        try:
            if turned is not None:
                await self.tell_health(turned)
            if isinstance(result, Observed):
                result = await self.client.complete(watch.run, result)
        except Exception:  # as where the look is taken in
            log.exception("poll.crashed", connection=self._name, run_id=watch.run.id)
            watch.is_in_flight = False
            self._schedule(watch, CRASH_RETRY_S, "the last look failed inside the bridge")
            return
        except BaseException:
            watch.is_in_flight = False
            raise
        await self._intake.take_in(watch, result, now)
        self.bell.ring()

    async def tell_health(self, turned: HealthChange) -> None:
        """Record that the account's health has turned; while the database cannot be written, passes try again."""
        self._untold = turned
        await self._tell_untold(self._tell_due)

    async def _tell_untold(self, now: float) -> None:
        turned = self._untold
        if turned is None or now < self._tell_due:
            return
        try:
            await self._recorder.tell_health(turned)
        except StoreUnavailable as error:
            self._tell_due = self._clock.monotonic() + STORE_RETRY_S
            log.warning("health.untold", connection=self._name, reason=str(error))
            return
        except Exception:  # a word about the account must not hold up its runs
            log.exception("health.untold", connection=self._name)
        self._untold = None if self._untold is turned else self._untold

    # -- when next

    def _plan_anew(self, now: float) -> None:
        """After a run has ended: what it taught changes when the others like it are looked at."""
        if not self.planner.learner.changed or now < self._plan_anew_due:
            return
        self._plan_anew_due = now + RANK_EVERY_S
        if self._list_poller is not None:
            self._list_poller.plan_anew()
        self.planner.refit(self.hand.some(RANKED_MAX))
        for watch in [watch for watch in self.hand.some(RANKED_MAX) if watch.is_scheduled]:
            plan = self.planner.next_look_anew(watch, now)
            if plan is not None:
                self._schedule(watch, plan.delay_s, plan.reason)
        self.planner.learner.changed.clear()

    def _catch_up(self, now: float) -> None:
        """The account answers again: who could not be asked is due now, the most urgent first, as the gate allows."""
        self.client.has_recovered = False
        for watch in [watch for watch in self.hand.all() if watch.is_scheduled]:
            plan = self.planner.next_try_anew(watch, now)
            if plan is not None:
                self._schedule(watch, plan.delay_s, plan.reason)

    def _schedule(self, watch: Watch, delay_s: float, reason: str) -> None:
        now = self._clock.now()
        left_s = self.planner.left_s(watch, now)
        if left_s < delay_s:
            delay_s, reason = left_s, "its deadline"
        watch.next_poll_at = now + timedelta(seconds=delay_s)
        watch.reason = reason
        watch.due = self._clock.monotonic() + delay_s
        if self.hand.get(watch.run.id) is not watch:
            return
        keeps = (
            delay_s <= KEEP_S
            or len(self.hand) <= KEPT_MAX
            or (self._list_poller is not None and self._list_poller.keeps(watch.run.id))
        )
        if keeps and not self._is_draining and not self.client.limiter.is_shut:
            self.hand.hold(watch)
            self._returns.note_wish(watch, self._clock.monotonic())
            return
        self._returns.let_go(watch, self._clock.monotonic() + GATHER_S)

    # -- what goes back to the database

    async def _flush(self, now: float) -> None:
        self._claiming.expect_at(await self._returns.flush(now))
        has_news = self.planner.learner.has_lessons or self._lessons.has_rate or not self._database.is_sqlite
        if now >= self._save_due and has_news:
            self._save_due = now + SAVE_EVERY_S
            await self._lessons.save()

    # -- from outside

    def live(self, run_id: str) -> Watch | None:
        """The run's watch if it is in hand or on its way back: fresher than the database."""
        return self.hand.get(run_id) or self._returns.get(run_id)

    def next_poll(self, run: Run) -> tuple[datetime | None, str | None]:
        """When the run is looked at next, as far as is known now, and why then: for people."""
        now, wall, watch = self._clock.monotonic(), self._clock.now(), self.live(run.id)
        due_at, reason = (run.next_poll_at, None) if watch is None else (watch.next_poll_at, watch.reason)
        if due_at is None or (watch is None and not self._database.is_sqlite):  # perhaps another node has it
            return due_at, reason
        listed_s = self._list_poller.shows_in_s(run.id, now) if watch is not None and self._list_poller else math.inf
        if watch is not None and watch.is_in_flight:
            return wall, "it is being looked at"
        if listed_s < (due_at - wall).total_seconds():
            return wall + timedelta(seconds=listed_s), "a list is worth a request then, and shows this run too"
        if due_at > wall:
            return due_at, reason
        opens_in_s = self.client.opens_in_s(now)
        if self.client.health is ConnectionHealth.FAILING:
            reason = "its provider fails, and is asked again then"
        elif opens_in_s > 0 or self._line:
            reason = f"it is due, and waits for its turn at the connection's limit ({len(self._line)} wait in all)"
        return wall + timedelta(seconds=opens_in_s if opens_in_s < SHOWN_MAX_S else 0.0), reason

    def poll_now(self, run_id: str) -> None:
        """Look at a run at once, whatever its schedule says."""
        watch = self.hand.get(run_id)
        if watch is not None and not watch.is_in_flight:
            watch.reason, watch.is_wanted = "asked for", True
            watch.next_poll_at = self._clock.now()
            self.hand.hold_until(watch, self._clock.monotonic())
        self.expect_due()

    def forget(self, run_id: str) -> None:
        """Stop holding a run that was removed or settled elsewhere."""
        self.hand.drop(run_id)
        self._returns.forget(run_id)

    def share_anew(self) -> None:
        """There are more or fewer nodes: give back what is in hand, so that each takes its part of it."""
        self._returns.let_all_go(self._clock.monotonic())
        self.expect_due()

    def rebase(self, jump_s: float) -> None:
        """The wall clock jumped by so much: ages go on as they were, and nothing is learned from runs that span it."""
        for watch in self.hand.all():
            watch.rebase(jump_s)
        self.expect_due()

    async def drain(self) -> None:
        """Stop looking (a GET cut short harms nobody), save, and put everything back."""
        await self.abandon()
        for watch in self.hand.all():
            self._returns.let_go(watch, math.inf)
        await self._returns.flush(math.inf)
        await self._lessons.save()

    async def abandon(self) -> None:
        """Stop looking and write nothing more: the claims are lost."""
        self._is_draining = True
        self.client.limiter.forget(self._name)
        if self._list_poller is not None:
            await self._list_poller.drain()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
