"""The list of one connection: one request that observes many runs, sent when all of them together are worth it.

    a run is due ──► it rides along ──► list ──► shown as it was ────► seen alive, planned anew
                                            ├──► shown changed ──────► recorded; looked at where the list tells too little
                                            └──► not shown, no list ─► looked at by itself, at once

Runs that a list did not show are looked at by themselves until one does. A list that fails rests for a while, in
which every run is looked at by itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, Protocol

import structlog

from bridge.domain.cadence.list_rule import Accruing, wait_before_list, worth_of_pages
from bridge.domain.clock import Clock
from bridge.domain.connection import ConnectionHealth
from bridge.domain.errors import StoreUnavailable
from bridge.domain.limits.fair_limiter import Candidate
from bridge.domain.observation import FailureKind, ListedRun, Observed, PollFailed, RunPage
from bridge.domain.run import Run, RunStatus
from bridge.domain.transition import unchanged
from bridge.polling.connection_client import ConnectionClient, HealthChange
from bridge.polling.discovery import ASK_AT_LEAST_S, Discovery
from bridge.polling.planner import Planner
from bridge.polling.schedule import Hand, Watch
from bridge.providers.http import ProviderFailure
from bridge.runtime.loop import Bell
from bridge.runtime.metrics import Metrics

log = structlog.get_logger()
RUNS_MIN: Final = 3  # in hand; with fewer a look at each is as cheap and tells more
PAGES_MAX: Final = 10
PAGE_WAIT_S: Final = 5.0  # the longest that the next page is waited for at the gate
RIDE_S: Final = 1.0  # a run that is due waits so long for a list under way
FIRST_LOOK_WAIT_S: Final = 0.5  # first looks share a list, and wait so long for one at most …
FIRST_LOOK_GAP_S: Final = 3.0  # … or, where one was just sent for others, until so long after that one …
FIRST_LOOK_GAP_PRICES: Final = 2.0  # … or so many times the price, if that is less
FIRST_LOOK_WORTH: Final = 0.5  # … each gathering so many seconds of lateness a second: that likely it is over
SHORTEST_WAIT_S: Final = 0.02
SIGHTING_S: Final = 1.0  # a run counts as looked at if a list showed it so shortly before it was taken in hand
RIDER_WORTH: Final = 0.5  # in prices: what the next page is worth to a run that may be on it or not
SEARCHED_MAX: Final = 2_000  # runs in hand that are looked through for those that no list has shown
MISSED_MAX: Final = 20_000
REACH: Final = timedelta(days=1)  # how long before its registration a run may have begun
RETRY_FIRST_S, REFUSED_FIRST_S, RETRY_MAX_S = 1.0, 60.0, 600.0
REFUSALS: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.UNAUTHORIZED, FailureKind.REJECTED})


class Desk(Protocol):
    """What the poller lends to its lister."""

    client: ConnectionClient
    bell: Bell
    hand: Hand
    planner: Planner

    async def take_listed(self, watch: Watch, seen: Observed) -> None:
        """Take in what a list shows of a run, as if it had been looked at by itself."""
        ...

    async def tell_health(self, turned: HealthChange) -> None:
        """Record that the account's health has turned; StoreUnavailable."""
        ...


class ListPoller:
    """Decides when the list is asked for, and hands out what it shows. Times are monotonic seconds."""

    def __init__(self, desk: Desk, *, clock: Clock, metrics: Metrics, discovery: Discovery | None = None) -> None:
        self._desk = desk
        self._clock = clock
        self._metrics = metrics
        self._discovery = discovery
        self._name = desk.client.connection.name
        self._task: asyncio.Task[None] | None = None
        self._takings: set[asyncio.Task[None]] = set()
        self._riders: dict[str, Watch] = {}  # due, and left to the list that is under way or next
        self._shown: dict[str, Watch] = {}  # what the lists show
        self._missed: dict[str, None] = {}  # what they did not show
        self._found: dict[str, Watch] = {}  # what the list under way has shown so far
        self._pages: dict[str, int] = {}  # from 1: where a run stood when a list last showed it
        self._waiting_since: dict[str, float] = {}  # first looks that wait for the next list
        self._others: dict[str, Sighting] = {}  # what the last list showed that is not in hand, by the provider's id
        self._is_summary = False
        self._sent_at = -math.inf
        self._first_looks_at = -math.inf  # when a list was last sent that first looks waited for
        self._walked_at = -math.inf  # when the last list was sent that was read to its end
        self._due = -math.inf
        self._is_stale = True  # the due time is to be reckoned anew
        self._failures = 0
        self._rests_until = -math.inf

    # -- when

    def rest_s(self, now: float) -> float:
        """Seconds until the list is worth a request; infinity while none is to be sent."""
        if self._task is not None or not self._is_useful():
            return math.inf
        if self._is_stale:
            self._reckon(now)
        return max(self._due - now, self._rests_until - now, 0.0)

    def shows_in_s(self, run_id: str, now: float) -> float:
        """Seconds until a list shows this run, as planned; infinity where none is expected to."""
        if run_id not in self._shown:
            return math.inf
        return 0.0 if self._task is not None else max(self._due, self._rests_until, now) - now

    def plan_anew(self) -> None:
        """More is known of the runs that the lists show."""
        self._is_stale = True

    def keeps(self, run_id: str) -> bool:
        """Whether a run is to stay in hand, however late it is due by itself, because the lists show it."""
        return run_id in self._shown

    def _is_useful(self) -> bool:
        """Whether a list may show enough; while the account fails, looks at single runs are the probes."""
        if self._desk.client.health is ConnectionHealth.FAILING:
            return self._discovery is not None and not len(self._desk.hand)
        return self._discovery is not None or sum(1 for _ in islice(self._hopeful(), RUNS_MIN)) == RUNS_MIN

    def _hopeful(self) -> Iterator[Watch]:
        return (watch for watch in self._desk.hand.some(SEARCHED_MAX) if watch.run.id not in self._missed)

    def _reckon(self, now: float) -> None:
        self._is_stale = False
        planner, settings = self._desk.planner, self._desk.client.connection.cadence
        longest_s, since_s = settings.max_interval_s, now - self._sent_at
        shown = [watch for watch in self._shown.values() if self._is_here(watch)]
        planner.refit(shown)
        pages = self._accruals(shown, now)
        if self._discovery is not None:
            longest_s = min(longest_s, ASK_AT_LEAST_S)
            pages[0].append(planner.unseen(self._discovery.per_s, min(since_s, longest_s)))
        wait_s = wait_before_list(pages, 1.0, settings.min_interval_s, longest_s, since_s=since_s)
        self._due = now + wait_s if any(pages) else math.inf

    def _accruals(self, watches: Collection[Watch], now: float, first: int = 1) -> list[list[Accruing]]:
        """How their lateness grows, by page from the `first` on; none stands before it."""
        pages: list[list[Accruing]] = [[]]
        for watch, accruing in zip(watches, self._desk.planner.accruals(list(watches), now), strict=True):
            behind = max(self._pages.get(watch.run.id, first) - first, 0)
            pages += [[] for _ in range(behind + 1 - len(pages))]
            pages[behind].append(accruing)
        return pages

    def _is_here(self, watch: Watch) -> bool:
        return self._desk.hand.get(watch.run.id) is watch and not watch.is_in_flight

    # -- who

    def takes(self, watch: Watch, now: float) -> bool:
        """Whether a run that is due is left to a list: one under way or sent now; else it is looked at by itself."""
        is_taken = self._may_show(watch, now) and (
            self._takes_first_look(watch, now) if watch.run.observed_at is None else self._takes_look(watch, now)
        )
        if not is_taken:
            self._waiting_since.pop(watch.run.id, None)
        return is_taken

    def _may_show(self, watch: Watch, now: float) -> bool:
        if watch.is_wanted or watch.not_found_count or watch.run.id in self._missed:
            return False
        return now >= self._rests_until and self._is_useful()

    def _takes_look(self, watch: Watch, now: float) -> bool:
        if self._task is None and self._pages.get(watch.run.id, 1) > 1 and self._due > now:
            return False  # the pages before its own are not worth their requests yet
        if self._task is None and self._opens_at() <= now:
            self.send(now)
        until = self._opens_at() if self._task is None else self._sent_at + RIDE_S
        return self._postpone(watch, until, now)

    def _takes_first_look(self, watch: Watch, now: float) -> bool:
        run = watch.run
        sighting = self._others.pop(run.provider_run_id, None)
        if sighting is not None and now - sighting.sent_at <= SIGHTING_S:
            return self._show(watch, sighting)
        if self._is_summary:
            return False
        waiting_since = self._waiting_since.setdefault(run.id, watch.due)
        next_at = max(self._opens_at(), min(self._first_looks_due(), self._due))
        if self._task is None and next_at <= now:
            self.send(now)
        if self._task is not None and self._sent_at >= waiting_since:  # one sent before may not know the run yet
            return self._postpone(watch, self._sent_at + RIDE_S, now)
        next_at = max(next_at, now + SHORTEST_WAIT_S)
        is_soon = next_at <= max(waiting_since + FIRST_LOOK_WAIT_S, self._first_looks_again_at())
        if is_soon:
            self._desk.hand.hold_until(watch, next_at)
        return is_soon

    def _first_looks_due(self) -> float:
        """When the first looks that wait are worth a list by themselves; who comes alone does not wait long."""
        price_s = self._desk.client.connection.cadence.price_s
        worth_per_s = FIRST_LOOK_WORTH * len(self._waiting_since)
        worth_at = next(iter(self._waiting_since.values())) + min(price_s / worth_per_s, FIRST_LOOK_WAIT_S)
        return max(worth_at, self._first_looks_again_at())

    def _first_looks_again_at(self) -> float:
        price_s = self._desk.client.connection.cadence.price_s
        return self._first_looks_at + min(FIRST_LOOK_GAP_S, FIRST_LOOK_GAP_PRICES * price_s)

    def _postpone(self, watch: Watch, until: float, now: float) -> bool:
        if until <= now:
            return False
        self._riders[watch.run.id] = watch
        self._desk.hand.hold_until(watch, until)
        return True

    def _opens_at(self) -> float:
        return self._sent_at + self._desk.client.connection.cadence.min_interval_s

    # -- one list

    def send(self, now: float) -> None:
        """Ask for the list; the gate must be open."""
        client, price_s = self._desk.client, self._desk.client.connection.cadence.price_s
        client.limiter.pick([Candidate("list", price_s, price_s)])
        client.limiter.send(now, self._name)
        self._sent_at = now
        self._found, self._others = {}, {}
        if self._waiting_since:
            self._first_looks_at = now
        for run_id in self._waiting_since:  # they wait for this one, so that it is read as far as they may stand on it
            watch = self._desk.hand.get(run_id)
            if watch is not None and not watch.is_in_flight:
                self._postpone(watch, now + RIDE_S, now)
        self._task = asyncio.create_task(self._list(now), name=f"list:{self._name}")

    async def _list(self, sent_at: float) -> None:
        try:
            await self._walk(sent_at)
        except ProviderFailure:
            pass  # judged where it came
        except StoreUnavailable as error:
            log.warning("list.postponed", connection=self._name, reason=str(error))
        except Exception:  # like the loop: a list's trouble must not end the looks
            log.exception("list.crashed", connection=self._name)
            self._rest(PollFailed(FailureKind.BAD_PAYLOAD, "the list could not be taken in"))
        finally:
            self._task = None
            self._is_stale = True
            self._waiting_since = {i: at for i, at in self._waiting_since.items() if self._desk.hand.get(i)}
            riders, self._riders = self._riders, {}
            for watch in riders.values():
                self._look_alone(watch)
            self._desk.bell.ring()

    async def _walk(self, sent_at: float) -> None:
        """Page after page, as long as the next one is worth a request."""
        cursor: str | None = None
        for number in range(1, PAGES_MAX + 1):
            if number > 1:
                await self._desk.client.take_turn()
            page = await self._page(cursor, number)
            cursor = page.next_cursor
            if self._discovery is not None:
                added = await self._discovery.take_in(page)
                self._metrics.discovered.labels(self._name).inc(added)
            if cursor is None or not self._wants_more(number + 1):
                break
        self._conclude(is_whole=cursor is None or number == PAGES_MAX)
        since_s, self._walked_at, self._failures = sent_at - self._walked_at, sent_at, 0
        if self._discovery is not None:
            await self._discovery.end(since_s)

    async def _page(self, cursor: str | None, number: int) -> RunPage:
        client, sent_at = self._desk.client, self._clock.monotonic()
        try:
            if self._discovery is not None and cursor is None:
                await self._discovery.begin()
            page = await client.list_runs(since=self._since(), cursor=cursor)
        except ProviderFailure as failure:
            self._rest(failure.failed)
            await self._judge(failure.failed, sent_at)
            raise
        except BaseException:
            client.limiter.give_up()
            raise
        await self._judge(page, sent_at)
        for listed in page.runs:
            self._hand_out(Sighting(listed, page.answered_at, sent_at), number)
        self._is_summary = any(listed.needs_detail for listed in page.runs)
        self._rests_until = self._clock.monotonic() + (page.poll_after_s or 0.0)
        return page

    def _since(self) -> datetime:
        """From when on runs may have begun that are watched, or to be discovered."""
        registered = [watch.run.registered_at for each in (self._shown, self._riders) for watch in each.values()]
        since = min([self._clock.now(), *registered]) - REACH
        return self._discovery.reaches_back_to(since) if self._discovery is not None else since

    async def _judge(self, result: RunPage | PollFailed, sent_at: float) -> None:
        """The account's pace follows lists too; its health follows failed lists only where nothing else is asked."""
        client, now, in_hand = self._desk.client, self._clock.monotonic(), len(self._desk.hand)
        self._metrics.lists.labels(self._name, "shown" if isinstance(result, RunPage) else result.kind.value).inc()
        if isinstance(result, PollFailed) and in_hand:
            client.pace(result, sent_at=sent_at, now=now)
        elif turned := client.judge(result, sent_at=sent_at, now=now, runs_in_hand=in_hand):
            await self._desk.tell_health(turned)

    def _rest(self, failed: PollFailed) -> None:
        """Leave the list alone for a while; its refusal is likely to last."""
        self._failures += 1
        first_s = REFUSED_FIRST_S if failed.kind in REFUSALS else RETRY_FIRST_S
        rest_s = max(min(first_s * 2.0 ** min(self._failures - 1, 16), RETRY_MAX_S), failed.retry_after_s or 0.0)
        self._rests_until = self._clock.monotonic() + rest_s
        say = log.warning if self._failures == 1 else log.info
        say("list.failed", connection=self._name, kind=failed.kind.value, reason=failed.message, rests_s=rest_s)

    # -- what it shows

    def _hand_out(self, sighting: Sighting, number: int) -> None:
        watch = self._desk.hand.find(sighting.listed.provider_run_id)
        if watch is None:
            self._others[sighting.listed.provider_run_id] = sighting
        elif watch.run.id not in self._found:  # pages shift while they are read, and show a run twice
            self._found[watch.run.id], self._pages[watch.run.id] = watch, number
            if not watch.is_in_flight and not self._show(watch, sighting):
                self._look_alone(watch)

    def _show(self, watch: Watch, sighting: Sighting) -> bool:
        """Take in how the list shows a run; False where only a look at the run itself tells."""
        run = watch.run
        self._riders.pop(run.id, None)
        self._waiting_since.pop(run.id, None)
        self._missed.pop(run.id, None)
        shown = sighting.of(run)
        if shown is None:
            return False
        watch.count_poll(self._clock.now(), sighting.sent_at)
        watch.sightings += 1
        watch.is_in_flight = True
        task = asyncio.create_task(self._desk.take_listed(watch, shown), name=f"listed:{run.id}")
        self._takings.add(task)
        task.add_done_callback(self._takings.discard)
        return True

    def _look_alone(self, watch: Watch) -> None:
        if self._is_here(watch):
            watch.is_wanted = True
            self._desk.hand.hold_until(watch, self._clock.monotonic())

    def _wants_more(self, number: int) -> bool:
        """Whether page `number`, perhaps with others behind it, is worth a request: for those not found yet, or news."""
        now = self._clock.monotonic()
        if self._desk.client.limiter.rate_limit.opens_at > now + PAGE_WAIT_S:
            return False
        if self._discovery is not None and self._discovery.wants_more:
            return True
        riding = RIDER_WORTH * sum(1 for run_id in self._riders if run_id not in self._shown)
        return riding + worth_of_pages(self._accruals(self._absent().values(), now, number)) >= 1

    def _absent(self) -> dict[str, Watch]:
        """What earlier lists showed and this one has not so far."""
        return {
            run_id: watch for run_id, watch in self._shown.items() if run_id not in self._found and self._is_here(watch)
        }

    def _conclude(self, *, is_whole: bool) -> None:
        """Remember what the list showed; `is_whole`: what it did not show is not to be expected from the next one."""
        absent, missed = self._absent(), set(self._riders)
        if is_whole:
            missed |= {watch.run.id for watch in self._hopeful() if watch.run.observed_at is not None}
        for run_id in missed - self._found.keys():
            self._missed[run_id] = None
        while len(self._missed) > MISSED_MAX:
            del self._missed[next(iter(self._missed))]
        self._shown = ({} if is_whole else absent) | self._found
        self._pages = {run_id: self._pages[run_id] for run_id in self._shown}

    async def drain(self) -> None:
        """Stop what is under way; a GET cut short harms nobody."""
        tasks = [*self._takings, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One run on one page; `sent_at` (monotonic) is when the page was asked for."""

    listed: ListedRun
    answered_at: str | None
    sent_at: float

    def of(self, run: Run) -> Observed | None:
        """What it shows of `run`; None where only a look at the run itself tells.

        A run as it was is seen as it was: nothing that a list leaves out may look like a change.
        """
        seen = self.listed.observation
        if seen is None:
            return None
        if run.observed_at is not None and (run.status, run.provider_status) == (seen.status, seen.provider_status):
            return Observed(unchanged(run), answered_at=self.answered_at)
        return Observed(seen, answered_at=self.answered_at) if _tells_enough(run, self.listed) else None


def _tells_enough(run: Run, listed: ListedRun) -> bool:
    """Whether a change may be recorded as the list tells it.

    Lists may lag behind: to and fro between running and waiting only a look at the run itself is believed.
    """
    seen = listed.observation
    if seen is None or listed.needs_detail or seen.status is RunStatus.UNKNOWN:
        return False
    return run.observed_at is None or seen.status.is_settled or run.status is RunStatus.QUEUED
