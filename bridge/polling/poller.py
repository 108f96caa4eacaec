"""The poller of one connection: acquires due runs, polls each when its time comes, and does what the result asks for.

acquire ──► planned ──(due, limiter open, most urgent first)──► poll ──► Continue ──► planned again, or released
                                                                    └──► Drop
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Coroutine
from typing import Final

import structlog

from bridge.domain.cadence.rule import NextPoll
from bridge.domain.errors import StoreUnavailable
from bridge.domain.observation import Observed, PollFailed
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.duration_learner import LearnedState
from bridge.polling.list_poller import LIST_WAIT_S, ListPoller, Seen, WaitForList
from bridge.polling.planner import Planner
from bridge.polling.poll_results import Continue, Drop, NextStep, PollResults
from bridge.polling.run_leases import RunLeases
from bridge.polling.schedule import READY_MAX, PollSchedule, TrackedRun
from bridge.polling.services import PollingServices
from bridge.runtime.loop import Bell

log = structlog.get_logger()
GUARDED_REST_S: Final = 0.5
REST_MIN_S: Final = 0.0005
YIELD_S: Final = 0.004  # from one poll to the next while known events wait for their POST
CRASHED: Final = Continue(60.0, "the last poll failed inside runbridge")


class Poller:
    """Watches the runs of one connection."""

    def __init__(
        self, client: ConnectionClient, services: PollingServices, *, learned: LearnedState, node: str
    ) -> None:
        self.client = client
        self.bell = Bell()
        self.lease_guard = services.lease_guard
        self.schedule = PollSchedule(client.connection, client.limiter, services.clock)
        self.planner = Planner(client.connection.cadence, learned.learner)
        self.results = PollResults(client, self.planner, self.schedule, services, node=node)
        self.leases = RunLeases(client, self.schedule, services, bell=self.bell, node=node)
        self.lists = ListPoller(client, self.schedule, self.planner, services)
        self._learned = learned
        self._offer_of = services.offer_of
        self._clock = services.clock
        self._name = client.connection.name
        self._tasks: dict[object, asyncio.Task[None]] = {}
        """Requests under way, by the run that is polled, or by when the list was begun."""
        self._next_pass_at = math.inf
        self._yields_until = -math.inf

    # -- the pass

    async def run_pass(self) -> float:
        """Write what waits to be written, acquire runs, and poll those that are due; seconds until the next pass."""
        now = self._clock.monotonic()
        try:
            await self.results.flush_health(now)
            await self.leases.flush(now)
            await self._learned.save_if_due(now)
            await self.leases.acquire()
        except StoreUnavailable:
            self.leases.doubt()
            raise
        now = self._clock.monotonic()
        self._replan(now)
        if not self.lease_guard.is_open:
            return GUARDED_REST_S
        self._start_requests(now)
        self._queue_at_limiter(now)
        now = self._clock.monotonic()
        rest_s, is_blocked = self._rest_s(now), self._opens_in_s(now) > 0
        self._next_pass_at = math.inf if is_blocked else now + rest_s  # any end of a run may unblock it
        return rest_s

    def _replan(self, now: float) -> None:
        """Plan again what was planned before the provider answered again, or before runs like it ended."""
        if runs_max := self.client.take_recovery():
            for tracked, plan in self.planner.replan_after_outage(self.schedule.all(), now)[:runs_max]:
                self._plan(tracked, plan)
        if (witness := self.results.witness(now)) is not None:
            self.schedule.poll_now(witness, "another run of the connection cannot be read")
        if self.planner.replan_rest_s(now) <= 0:
            self.lists.replan()
            for tracked, plan in self.planner.replan_learned(self.schedule.some(READY_MAX), now):
                self._plan(tracked, plan)

    def _start_requests(self, now: float) -> None:
        wall = self._clock.now()
        while self._opens_in_s(now) <= 0 and self.lease_guard.is_open and now >= self._yields_until:
            if (due := self.schedule.take_to_rank(now)) is not None:
                ranked = self.planner.rank(due, now, self.schedule.some(READY_MAX))
                if self.client.is_probing:  # by turns: a run that is gone seems ever later, and would take every probe
                    ranked.sort(key=lambda each: -each[1].sent_at)
                self.schedule.set_ready(ranked, now)
            if self.lists.rest_s(now) <= 0:
                self._start_list(now)
                continue
            if (tracked := self.schedule.take_ready(now)) is None:
                return
            match self.lists.decide(tracked, now):
                case Seen() as seen:
                    self._take_seen(seen)
                case WaitForList(until, sends_list):
                    self.schedule.postpone(tracked, until)
                    if sends_list:
                        self._start_list(now)
                case None:
                    tracked.start_poll(wall, now)
                    self.client.limiter.send(now, self._name)
                    self._spawn(tracked, self._follow(tracked), f"poll:{tracked.run.id}")
                    if (offer := self._offer_of()) is not None and offer.is_behind():
                        self._yields_until = now + YIELD_S

    def _queue_at_limiter(self, now: float) -> None:
        waits = self.schedule.next_due() <= now or self.leases.is_held_up
        is_probing = self.client.is_probing and self.client.limiter.in_flight
        self.schedule.queue_at_limiter(self.bell.ring, waits=waits and not (self.results.is_behind or is_probing))

    def _rest_s(self, now: float) -> float:
        polls_s = max(self.schedule.next_due(), self.schedule.turn_due) - now
        requests_s = max(min(polls_s, self.lists.rest_s(now)), self._opens_in_s(now), self._yields_until - now)
        return max(REST_MIN_S, min(self._chores_in_s(now), requests_s))

    def _chores_in_s(self, now: float) -> float:
        """Seconds until something other than a request is due."""
        return min(
            self.leases.rest_s(now),
            self.results.rest_s(now),
            self._learned.rest_s(now),
            self.planner.replan_rest_s(now),
        )

    def _opens_in_s(self, now: float) -> float:
        """Seconds until a poll may begin; infinity while results wait to be recorded, which rings the bell."""
        return math.inf if self.results.is_behind else self.client.opens_in_s(now)

    def _spawn(self, key: object, work: Coroutine[None, None, None], name: str) -> None:
        """Run this as a task, which removes its `key` itself: a callback would cost a turn of the loop."""
        self._tasks[key] = asyncio.create_task(work, name=name)

    # -- one poll, one list

    async def _follow(self, tracked: TrackedRun, seen: Observed | None = None) -> None:
        """Poll a run, unless a list has just `seen` it, and do what the result asks for."""
        step: NextStep = CRASHED
        try:
            result = seen or await self.client.poll(
                tracked.run, tracked.last_response, sent_at=tracked.sent_at, runs_held=len(self.schedule)
            )
            now = self._clock.monotonic()
            if isinstance(result, PollFailed) or self.client.has_recovered:
                self.bell.ring()  # the next pass need not wait until this result is recorded
            step = await self.results.handle(tracked, result, now, is_listed=seen is not None)
        except Exception:  # like the loop: trouble with one run must not end its being watched
            log.exception("poll.crashed", connection=self._name, run_id=tracked.run.id)
        finally:
            tracked.end_poll()
            self._tasks.pop(tracked, None)
        is_held = self.schedule.holds(tracked)  # it may have been removed since
        match step:
            case Continue() as plan if is_held:
                self._plan(tracked, plan)
            case Drop(is_in_doubt) if is_held:
                self.leases.forget(tracked.run.id)
                if is_in_doubt:
                    self.leases.doubt()
                    self.bell.ring()
        if isinstance(step, Continue) or self._has_sooner_work():
            self.bell.ring()

    def _has_sooner_work(self) -> bool:
        """Whether the end of a run leaves something to do before the pass that is planned."""
        now = self._clock.monotonic()
        has_due = self.schedule.next_due() <= now and self._yields_until <= now
        waits = self.client.has_recovered or self.leases.is_held_up or has_due
        is_blocked = math.isinf(self._next_pass_at)
        return waits or is_blocked or now + self._chores_in_s(now) < self._next_pass_at - REST_MIN_S

    def _plan(self, tracked: TrackedRun, plan: Continue | NextPoll) -> None:
        wall = self._clock.now()
        next_poll = self.planner.before_deadline(tracked, plan.delay_s, plan.reason, wall)
        self.schedule.plan(tracked, next_poll.delay_s, next_poll.reason, wall)
        self.leases.keep_or_release(tracked, next_poll.delay_s, is_listed=self.lists.shows(tracked.run.id))

    def _start_list(self, now: float) -> None:
        for tracked in self.lists.begin(now):
            self.schedule.postpone(tracked, now + LIST_WAIT_S)
        self._spawn(now, self._read_list(now), f"list:{self._name}")

    async def _read_list(self, sent_at: float) -> None:
        try:
            async with contextlib.aclosing(self.lists.read(sent_at)) as pages:
                async for page in pages:
                    for seen in page.seen:
                        self._take_seen(seen)
                    for tracked in page.needs_poll:
                        self.schedule.poll_now(tracked)
                    await self.results.flush_health(self._clock.monotonic())
                    self.bell.ring()
        finally:
            self._tasks.pop(sent_at, None)

    def _take_seen(self, seen: Seen) -> None:
        """Handle what a list shows of a run as if the run had been polled by itself."""
        seen.tracked.start_poll(self._clock.now(), seen.sent_at, is_listed=True)
        self._spawn(seen.tracked, self._follow(seen.tracked, seen.result), f"listed:{seen.tracked.run.id}")

    # -- the end

    async def drain(self) -> None:
        """Stop polling (a GET cut short does no harm), save what was learned, and release every run."""
        await self.abandon()
        self.leases.release_all()
        await self.leases.flush(math.inf)
        await self._learned.save()

    async def abandon(self) -> None:
        """Stop polling and write nothing more: the leases are lost."""
        self.leases.close()
        self.client.limiter.forget(self._name)
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would not give its request back
        under_way = list(self._tasks.values())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
