"""Reading the list of one connection: one request observes many runs, sent when together they are worth it.

    a run is due ──► it waits ──► list ──► shown as it was ─────► seen alive, planned again
                                      ├──► shown changed ───────► recorded; polled where the list leaves something out
                                      └──► not shown, no answer ► polled by itself, at once

A run that a list did not show is polled by itself until one does. A list that fails rests for a while, in which every
run is polled by itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import structlog

from bridge.domain.cadence.list_rule import GrowingLateness, wait_before_list, worth_of_pages
from bridge.domain.errors import StoreUnavailable
from bridge.domain.failure import FailureKind
from bridge.domain.frozen import frozen
from bridge.domain.limits.fair_limiter import Candidate
from bridge.domain.observation import ListedRun, Observed, PollFailed, RunPage
from bridge.domain.transition import has_changed, shown_by_list
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.discovery import ASK_AT_LEAST_S, Discovery
from bridge.polling.planner import Planner
from bridge.polling.schedule import PollSchedule, TrackedRun
from bridge.polling.services import PollingServices
from bridge.providers.http import ProviderFailure

log = structlog.get_logger()
RUNS_MIN: Final = 3  # runs held; with fewer, a poll of each is as cheap and shows more
PAGES_MAX: Final = 10
PAGE_WAIT_S: Final = 5.0  # the next page waits no longer than this for the limiter
LIST_WAIT_S: Final = 1.0  # the longest wait of a due run for a list under way
FIRST_POLL_WAIT_S: Final = 0.5  # the longest wait of a first poll for a list that others can share …
FIRST_POLL_GAP_S: Final = 3.0  # … after a list was just sent: the time from that one to the next …
FIRST_POLL_GAP_PRICES: Final = 2.0  # … or this many times the price, if that is less
FIRST_POLL_WORTH: Final = 0.5  # the assumed chance that a run is over at its first poll: seconds of lateness a second
SHORTEST_WAIT_S: Final = 0.02
SIGHTING_S: Final = 1.0  # a run counts as polled if a list showed it within this time before it was acquired
WAITING_RUN_WORTH: Final = 0.5  # the worth, in prices, of the next page to a run that may be on it
SEARCHED_MAX: Final = 2_000  # held runs among which those that no list has shown are searched
MISSED_MAX: Final = 20_000
REACH: Final = timedelta(days=1)  # how long before its registration a run may have begun
RETRY_FIRST_S, REFUSED_FIRST_S, RETRY_MAX_S = 1.0, 60.0, 600.0
REFUSALS: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.UNAUTHORIZED, FailureKind.REJECTED})


@frozen
class WaitForList:
    """The run waits until `until` (monotonic) for a list to show it; with `sends_list` a list must be sent now."""

    until: float
    sends_list: bool = False


@frozen
class Seen:
    """The observation of one run in a list that was sent at `sent_at` (monotonic)."""

    tracked: TrackedRun
    result: Observed
    sent_at: float


@frozen
class ListResult:
    """The result of one page: what it shows of runs held, and those to be polled by themselves."""

    seen: Sequence[Seen] = ()
    needs_poll: Sequence[TrackedRun] = ()


@frozen
class _Sighting:
    """One run on one page."""

    listed: ListedRun
    answered_at: str | None
    sent_at: float


class ListPoller:
    """Decides when the list is read, and which runs wait for it; reads the schedule only. Times are monotonic seconds."""

    def __init__(
        self, client: ConnectionClient, schedule: PollSchedule, planner: Planner, services: PollingServices
    ) -> None:
        self._client = client
        self._has_list = client.provider.lists
        self._schedule = schedule
        self._planner = planner
        self._clock, self._metrics = services.clock, services.metrics
        self._discovery = Discovery(client.connection, services.database) if client.connection.discover else None
        self._name, self._cadence = client.connection.name, client.connection.cadence
        self._is_under_way = False
        self._waiting_runs: dict[str, TrackedRun] = {}  # due, and left to the list under way or the next one
        self._waiting_since: dict[str, float] = {}  # first polls among them
        self._shown: dict[str, TrackedRun] = {}  # what the lists show
        self._missed: dict[str, None] = {}  # what they did not show
        self._found: dict[str, TrackedRun] = {}  # what the list under way has shown so far
        self._pages: dict[str, int] = {}  # from 1: the page that last showed a run
        self._others: dict[str, _Sighting] = {}  # on the last list and not held, by the provider's id
        self._is_summary = False
        self._sent_at = -math.inf
        self._first_polls_at = -math.inf  # when a list was last sent that first polls waited for
        self._walked_at = -math.inf  # when the last list was sent that was read to its end
        self._due = -math.inf
        self._is_stale = True  # the due time is to be computed again
        self._failures = 0
        self._added = 0  # runs discovered by the list under way
        self._fruitless = 0  # lists in a row that showed no run that is watched
        self._rests_until = -math.inf

    # -- when

    def rest_s(self, now: float) -> float:
        """Seconds until the list is worth a request; infinity while none is to be sent.

        Where requests are scarce, a list that is due waits for the polls that are worth more.
        """
        if self._is_under_way or not self._is_useful():
            return math.inf
        if self._is_stale:
            self._compute_due(now)
        rest_s = max(self._due - now, self._rests_until - now, 0.0)
        waits = rest_s <= 0 and self._schedule.is_scarce and self.worth_s(now) < self._schedule.top_worth_s
        return math.inf if waits else rest_s

    def worth_s(self, now: float) -> float:
        """The worth of the list now, in seconds of delay: its price when due, then as the square of the time."""
        planned_s, elapsed_s = self._due - self._sent_at, now - self._sent_at
        if not math.isfinite(elapsed_s) or planned_s <= 0:
            return self._cadence.price_s
        return self._cadence.price_s * max(elapsed_s / planned_s, 1.0) ** 2

    def shows_in_s(self, run_id: str, now: float) -> float:
        """Seconds until a list shows this run, as planned; infinity where none is expected to."""
        if run_id not in self._shown:
            return math.inf
        return 0.0 if self._is_under_way else max(self._due, self._rests_until, now) - now

    def replan(self) -> None:
        """Compute the due time again: more is known of the runs that the lists show."""
        self._is_stale = True

    def shows(self, run_id: str) -> bool:
        """Whether the lists show this run, which is then held however late it is due by itself."""
        return run_id in self._shown

    def _is_useful(self) -> bool:
        """Whether a list may show enough; while the connection is probed, polls of single runs are the probes."""
        if not self._has_list:
            return False
        if self._client.is_probing:
            return self._discovery is not None and not len(self._schedule)
        return self._discovery is not None or sum(1 for _ in islice(self._hopeful(), RUNS_MIN)) == RUNS_MIN

    def _hopeful(self) -> Iterator[TrackedRun]:
        return (each for each in self._schedule.some(SEARCHED_MAX) if each.run.id not in self._missed)

    def _compute_due(self, now: float) -> None:
        self._is_stale = False
        longest_s, since_s = self._cadence.max_interval_s, now - self._sent_at
        shown = [tracked for tracked in self._shown.values() if self._is_idle(tracked)]
        self._planner.refit(shown)
        pages = self._lateness_by_page(shown, now)
        if self._discovery is not None:
            longest_s = min(longest_s, ASK_AT_LEAST_S)
            pages[0].append(self._planner.unregistered_lateness(self._discovery.per_s, min(since_s, longest_s)))
        wait_s = wait_before_list(pages, 1.0, self._cadence.min_interval_s, longest_s, since_s=since_s)
        self._due = now + wait_s if any(pages) else math.inf

    def _lateness_by_page(
        self, runs: Collection[TrackedRun], now: float, first: int = 1
    ) -> list[list[GrowingLateness]]:
        """The growth of their lateness, by page from page `first` on."""
        pages: list[list[GrowingLateness]] = [[]]
        for tracked, lateness in zip(runs, self._planner.lateness_of(list(runs), now), strict=True):
            behind = max(self._pages.get(tracked.run.id, first) - first, 0)
            pages += [[] for _ in range(behind + 1 - len(pages))]
            pages[behind].append(lateness)
        return pages

    def _is_idle(self, tracked: TrackedRun) -> bool:
        return self._schedule.holds(tracked) and not tracked.is_in_flight

    # -- which runs

    def decide(self, tracked: TrackedRun, now: float) -> WaitForList | Seen | None:
        """Whether a due run waits for a list, or was just seen on one; None: poll it by itself."""
        if not self._has_list:
            return None
        decision: WaitForList | Seen | None = None
        if self._may_show(tracked, now):
            is_first = tracked.run.observed_at is None
            decision = self._decide_first(tracked, now) if is_first else self._decide_next(tracked, now)
        if decision is None:
            self._waiting_since.pop(tracked.run.id, None)
        return decision

    def _may_show(self, tracked: TrackedRun, now: float) -> bool:
        if tracked.is_wanted or tracked.is_not_found or tracked.run.id in self._missed:
            return False
        return now >= self._rests_until and self._is_useful()

    def _decide_next(self, tracked: TrackedRun, now: float) -> WaitForList | None:
        if self._is_under_way:
            return self._wait(tracked, self._sent_at + LIST_WAIT_S, now)
        if self._pages.get(tracked.run.id, 1) > 1 and self._due > now:
            return None  # the pages before its own are not worth their requests yet
        if self._opens_at() <= now:
            return self._wait(tracked, now + LIST_WAIT_S, now, sends_list=True)
        return self._wait(tracked, self._opens_at(), now)

    def _decide_first(self, tracked: TrackedRun, now: float) -> WaitForList | Seen | None:
        run = tracked.run
        sighting = self._others.pop(run.provider_run_id, None)
        if sighting is not None and now - sighting.sent_at <= SIGHTING_S:
            return self._see(tracked, sighting)
        if self._is_summary:
            return None
        waiting_since = self._waiting_since.setdefault(run.id, tracked.due)
        next_at = max(self._opens_at(), min(self._first_polls_due(), self._due))
        if not self._is_under_way and next_at <= now:
            return self._wait(tracked, now + LIST_WAIT_S, now, sends_list=True)
        if self._is_under_way and self._sent_at >= waiting_since:  # one sent before may not show the run yet
            return self._wait(tracked, self._sent_at + LIST_WAIT_S, now)
        next_at = max(next_at, now + SHORTEST_WAIT_S)
        is_soon = next_at <= max(waiting_since + FIRST_POLL_WAIT_S, self._first_polls_again_at())
        return WaitForList(next_at) if is_soon else None

    def _first_polls_due(self) -> float:
        """When the first polls that wait are worth a list by themselves; a lone one does not wait long."""
        worth_per_s = FIRST_POLL_WORTH * len(self._waiting_since)
        wait_s = min(self._cadence.price_s / worth_per_s, FIRST_POLL_WAIT_S)
        return max(next(iter(self._waiting_since.values())) + wait_s, self._first_polls_again_at())

    def _first_polls_again_at(self) -> float:
        return self._first_polls_at + min(FIRST_POLL_GAP_S, FIRST_POLL_GAP_PRICES * self._cadence.price_s)

    def _wait(self, tracked: TrackedRun, until: float, now: float, *, sends_list: bool = False) -> WaitForList | None:
        if until <= now:
            return None
        self._waiting_runs[tracked.run.id] = tracked
        return WaitForList(until, sends_list)

    def _opens_at(self) -> float:
        return self._sent_at + self._cadence.min_interval_s

    # -- one list

    def begin(self, now: float) -> Sequence[TrackedRun]:
        """Count the request for a list that `read` sends; the limiter must be open.

        Returns the first polls that waited for it: they now wait `LIST_WAIT_S` more.
        """
        price_s = self._cadence.price_s
        self._client.limiter.pick([Candidate("list", price_s, price_s)])
        self._client.limiter.send(now, self._name)
        self._is_under_way, self._sent_at = True, now
        self._found, self._others, self._added = {}, {}, 0
        if self._waiting_since:
            self._first_polls_at = now
        held = [each for run_id in self._waiting_since if (each := self._schedule.get(run_id)) is not None]
        waiting = [tracked for tracked in held if not tracked.is_in_flight]
        self._waiting_runs |= {tracked.run.id: tracked for tracked in waiting}
        return waiting

    async def read(self, sent_at: float) -> AsyncGenerator[ListResult]:
        """Yield page after page while the next one is worth a request; at the end, the runs that no page showed."""
        try:
            cursor: str | None = None
            cursors: set[str | None] = set()
            for number in range(1, PAGES_MAX + 1):
                if number > 1 and not await self._has_turn(number):
                    await self._end_walk(sent_at, is_whole=False)
                    break
                asked_at = self._clock.monotonic()
                page = await self._ask(cursor)
                self._judge(page, asked_at)
                if isinstance(page, PollFailed):
                    self._rest(page)
                    break
                yield self._take_page(page, number, asked_at)
                cursor = None if page.next_cursor in cursors else page.next_cursor  # one seen before shows nothing more
                cursors.add(cursor)
                if self._discovery is not None:
                    added = await self._discovery.take_in(page)
                    self._added += added
                    self._metrics.discovered.labels(self._name).inc(added)
                if cursor is None or number == PAGES_MAX or not self._wants_more(number + 1):
                    await self._end_walk(sent_at, is_whole=cursor is None or number == PAGES_MAX)
                    break
        except StoreUnavailable as error:
            log.warning("list.postponed", connection=self._name, reason=str(error))
        except Exception:  # like the loop: trouble with a list must not end the polls
            log.exception("list.crashed", connection=self._name)
            self._rest(PollFailed(FailureKind.BAD_PAYLOAD, "the list could not be taken in"))
        finally:
            self._is_under_way, self._is_stale = False, True
        self._waiting_since = {i: at for i, at in self._waiting_since.items() if self._schedule.get(i)}
        waiting, self._waiting_runs = self._waiting_runs, {}
        yield ListResult(needs_poll=list(waiting.values()))

    async def _has_turn(self, number: int) -> bool:
        """Wait for the turn of a further page among the polls; False if that takes too long."""
        worth_s = max(self._page_worth(number), 1.0) * self._cadence.price_s
        try:
            async with asyncio.timeout(PAGE_WAIT_S):
                await self._client.take_turn("list", lambda _now: worth_s)
        except TimeoutError:
            return False
        return True

    async def _ask(self, cursor: str | None) -> RunPage | PollFailed:
        try:
            if self._discovery is not None and cursor is None:
                await self._discovery.begin()
            return await self._client.list_runs(since=self._since(), cursor=cursor)
        except ProviderFailure as failure:
            return failure.failed
        except BaseException:
            self._client.limiter.give_up()
            raise

    def _since(self) -> datetime:
        """The earliest time at which a run may have begun that is watched, or to be discovered."""
        registered = [each.run.registered_at for runs in (self._shown, self._waiting_runs) for each in runs.values()]
        since = min([self._clock.now(), *registered]) - REACH
        return self._discovery.reaches_back_to(since) if self._discovery is not None else since

    def _judge(self, answer: RunPage | PollFailed, sent_at: float) -> None:
        """Pass the answer to the rate limit, and to the health if it shows a held run or nothing else is polled."""
        now, held = self._clock.monotonic(), len(self._schedule)
        self._metrics.lists.labels(self._name, "shown" if isinstance(answer, RunPage) else answer.kind.value).inc()
        listed = answer.runs if isinstance(answer, RunPage) else ()
        if held and not any(each.observation and self._schedule.find(each.provider_run_id) for each in listed):
            self._client.pace(answer, sent_at=sent_at, now=now)
        else:
            self._client.judge(answer, sent_at=sent_at, now=now, runs_held=held)

    def _rest_if_fruitless(self) -> None:
        """Ask for lists ever more rarely while they show no run that is watched."""
        self._fruitless = 0 if self._found or self._added else self._fruitless + 1
        if self._fruitless:
            longest_s = RETRY_MAX_S if self._discovery is None else ASK_AT_LEAST_S
            rest_s = min(RETRY_FIRST_S * 2.0 ** min(self._fruitless - 1, 16), longest_s)
            self._rests_until = max(self._rests_until, self._clock.monotonic() + rest_s)

    def _rest(self, failed: PollFailed) -> None:
        """Ask for no list for a while; its refusal is likely to last."""
        self._failures += 1
        first_s = REFUSED_FIRST_S if failed.kind in REFUSALS else RETRY_FIRST_S
        rest_s = max(min(first_s * 2.0 ** min(self._failures - 1, 16), RETRY_MAX_S), failed.retry_after_s or 0.0)
        self._rests_until = self._clock.monotonic() + rest_s
        say = log.warning if self._failures == 1 else log.info
        say("list.failed", connection=self._name, kind=failed.kind.value, reason=failed.message, rests_s=rest_s)

    # -- what it shows

    def _take_page(self, page: RunPage, number: int, sent_at: float) -> ListResult:
        seen: list[Seen] = []
        needs_poll: list[TrackedRun] = []
        for listed in page.runs:
            sighting = _Sighting(listed, page.answered_at, sent_at)
            tracked = self._schedule.find(listed.provider_run_id)
            if tracked is None:
                self._others[listed.provider_run_id] = sighting
            elif tracked.run.id not in self._found:  # pages shift while they are read, and show a run twice
                self._found[tracked.run.id], self._pages[tracked.run.id] = tracked, number
                if tracked.is_in_flight:
                    continue
                shown = self._see(tracked, sighting)
                if (
                    shown is not None
                    and tracked.is_not_found
                    and not has_changed(tracked.run, shown.result.observation)
                ):
                    tracked.note_not_lost()  # it is polled by itself until its own address answers
                elif shown is not None:
                    seen.append(shown)
                else:
                    needs_poll.append(tracked)
        self._is_summary = any(listed.needs_detail for listed in page.runs)
        self._rests_until = self._clock.monotonic() + (page.poll_after_s or 0.0)
        return ListResult(seen, needs_poll)

    def _see(self, tracked: TrackedRun, sighting: _Sighting) -> Seen | None:
        run = tracked.run
        self._waiting_runs.pop(run.id, None)
        self._waiting_since.pop(run.id, None)
        self._missed.pop(run.id, None)
        seen = shown_by_list(run, sighting.listed)
        if seen is None:
            return None
        return Seen(tracked, Observed(seen, answered_at=sighting.answered_at), sighting.sent_at)

    def _wants_more(self, number: int) -> bool:
        """Whether page `number`, perhaps with those behind it, is worth a request."""
        now = self._clock.monotonic()
        if self._client.limiter.rate_limit.opens_at > now + PAGE_WAIT_S:
            return False
        if self._discovery is not None and self._discovery.wants_more:
            return True
        return self._page_worth(number) >= 1

    def _page_worth(self, number: int) -> float:
        """The worth of page `number`, in prices: to waiting runs, and to runs that were on it before."""
        now = self._clock.monotonic()
        waiting = WAITING_RUN_WORTH * sum(1 for run_id in self._waiting_runs if run_id not in self._shown)
        return waiting + worth_of_pages(self._lateness_by_page(self._absent().values(), now, number))

    def _absent(self) -> dict[str, TrackedRun]:
        """The runs that earlier lists showed and this one has not so far."""
        return {i: each for i, each in self._shown.items() if i not in self._found and self._is_idle(each)}

    async def _end_walk(self, sent_at: float, *, is_whole: bool) -> None:
        """Remember what the list showed; of a whole one, what it did not show is not expected from the next."""
        absent, missed = self._absent(), set(self._waiting_runs)
        if is_whole:
            missed |= {each.run.id for each in self._hopeful() if each.run.observed_at is not None}
        self._missed |= dict.fromkeys(missed - self._found.keys())
        while len(self._missed) > MISSED_MAX:
            del self._missed[next(iter(self._missed))]
        self._shown = ({} if is_whole else absent) | self._found
        self._pages = {run_id: self._pages[run_id] for run_id in self._shown}
        self._rest_if_fruitless()
        since_s, self._walked_at, self._failures = sent_at - self._walked_at, sent_at, 0
        if self._discovery is not None:
            await self._discovery.end(since_s)
