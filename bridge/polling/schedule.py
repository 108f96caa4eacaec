"""The runs of one connection that are held in memory under leases: when each is due, and which is polled next.

    planned, by due time ──(due)──► ready, by urgency ──(its turn at the limiter)──► in flight ──► planned again

A poll that changes nothing is counted here and writes nothing. After a crash the lapsed lease makes a run due again;
polling it once more is harmless.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import datetime, timedelta
from itertools import count, islice
from typing import Final

from bridge.domain import transition
from bridge.domain.cadence.progress import ProgressTrack
from bridge.domain.clock import Clock
from bridge.domain.connection import Connection
from bridge.domain.failure import FailureKind, LastError
from bridge.domain.frozen import replaced
from bridge.domain.ids import comparable_run_id
from bridge.domain.limits.fair_limiter import Candidate, FairRateLimiter
from bridge.domain.observation import LastResponse, Observation, Observed, PollFailed
from bridge.domain.run import Run
from bridge.store.run_leases import PollRecord

STALE_MAX: Final = 1_000  # entries in the order of due times beyond twice the runs held
READY_MAX: Final = 2_000  # due runs that are ranked at once, in about 10 ms
RANK_EVERY_S: Final = 0.25
RANK_SHARE: Final = 0.02  # of the time, at most, goes into ranking
RECENT_MAX: Final = 16  # polls of a run that are remembered, for people
TURN_REST_S: Final = 0.05  # while another connection of the same credential has its turn


@dataclass(slots=True, eq=False)
class TrackedRun:
    """A run held in memory under a lease. Its counters run ahead of the database. Change it by its methods only.

    On the monotonic clock, in seconds: `due`, when it is polled next; `sent_at`, when it was last polled; `recent`, the
    latest of these; `not_before` and `retry_at`, the ends of pauses that the provider asked for, on the run as it was and
    on a failed poll; `origin`, when its present status began. `alive_s` is its age in
    this status when it was last seen in it. `is_tainted`: the wall clock jumped while it was held. `last_response`
    is the one that showed the run as it is, if it can be recognised; `is_304`: the last one was a 304. `is_wanted`: the
    next poll was asked for and waits for no list. `runs_known`: how many runs of its workflow had been learned from
    when it was first seen going on.
    """

    run: Run
    due: float
    now: InitVar[datetime]
    monotonic: InitVar[float]
    reason: str | None = None
    not_before: float = -math.inf
    retry_at: float = -math.inf
    is_wanted: bool = False
    is_in_flight: bool = False
    is_tainted: bool = False
    ticket: int = 0
    track: ProgressTrack = field(default_factory=ProgressTrack)
    runs_known: float | None = None
    recent: array[float] = field(default_factory=lambda: array("d"))
    sightings: int = 0
    last_response: LastResponse | None = None
    is_304: bool = False
    sent_at: float = field(init=False)
    origin: float = field(init=False)
    alive_s: float = field(init=False)
    next_poll_at: datetime | None = field(init=False)
    polls: int = field(init=False)
    last_polled_at: datetime | None = field(init=False)
    failure_streak: int = field(init=False)
    last_error: LastError | None = field(init=False)
    not_found_count: int = field(init=False)
    not_found_since: datetime | None = field(init=False)

    def __post_init__(self, now: datetime, monotonic: float) -> None:
        """Go on from the counters in the database."""
        run = self.run
        self.sent_at, self.next_poll_at = monotonic, run.next_poll_at
        self.polls, self.last_polled_at = run.polls, run.last_polled_at
        self.failure_streak, self.last_error = run.failure_streak, run.last_error
        self.not_found_count, self.not_found_since = run.not_found_count, run.not_found_since
        self._count_age(now, monotonic)

    def _count_age(self, now: datetime, monotonic: float) -> None:
        """Count the age, never negative, from the beginning of the present status."""
        run = self.run
        self.origin = monotonic - max(0.0, (now - run.status_since).total_seconds())
        seen_at = run.observed_at
        if seen_at is not None and not run.failure_streak:
            seen_at = run.last_polled_at or seen_at
        self.alive_s = max(0.0, (seen_at - run.status_since).total_seconds()) if seen_at else 0.0

    @property
    def requests(self) -> int:
        """Polls of this run alone; a list that showed it counts as a poll, but not as a request for it."""
        return self.polls - self.sightings

    @property
    def is_planned(self) -> bool:
        """Whether it is in the queue of due times: neither ready nor in flight."""
        return self.ticket != 0

    def start_poll(self, now: datetime, monotonic: float, *, is_listed: bool = False) -> None:
        """Count a poll that was sent at `monotonic`, on its own or, if `is_listed`, as part of a list."""
        self.is_in_flight, self.is_wanted = True, False
        self.polls += 1
        self.sightings += is_listed
        self.last_polled_at = now
        self.sent_at = monotonic
        if len(self.recent) == RECENT_MAX:
            del self.recent[0]
        self.recent.append(monotonic)

    def end_poll(self) -> None:
        """Note that the result has been dealt with, or the poll was cancelled."""
        self.is_in_flight = False

    def note_answer(self, *, is_304: bool, is_listed: bool = False) -> None:
        """Note that the poll gave an observation, which ends a row of failures.

        A 404 of its own address stays shown, however often a list has shown the run since.
        """
        self.is_304 = is_304
        self.note_not_lost()
        if is_listed and self.is_not_found:
            return
        self.last_error = None
        self.failure_streak = 0

    def note_not_lost(self) -> None:
        """Note that the provider shows the run, which ends a row of 404s."""
        self.not_found_count, self.not_found_since = 0, None

    @property
    def is_not_found(self) -> bool:
        """Whether the last poll of the run by itself was answered with the provider's own 404."""
        return self.last_error is not None and self.last_error.kind is FailureKind.NOT_FOUND

    def note_failure(self, failed: PollFailed, now: datetime, monotonic: float) -> None:
        """Note that the poll gave no observation; any failure but a 404 ends a row of 404s."""
        self.retry_at = monotonic + (failed.retry_after_s or 0.0)
        self.is_304 = False
        self.failure_streak += 1
        self.last_error = LastError(now, failed.kind, failed.message, self.failure_streak)
        if failed.kind is FailureKind.NOT_FOUND:
            self.not_found_count += 1
            self.not_found_since = self.not_found_since or now
        else:
            self.note_not_lost()

    @property
    def has_unsaved_error(self) -> bool:
        """Whether the database has another kind of last error, or none, or one where there is none any more."""
        stored, present = self.run.last_error, self.last_error
        return (stored and stored.kind) is not (present and present.kind)

    def note_saved(self, record: PollRecord) -> None:
        """Note that a `record()` of this run was written."""
        self.run = replaced(self.run, last_error=record.last_error)

    def note_alive(self, seen: Observation) -> None:
        """Note that the poll saw the run in the status that it already had."""
        self.alive_s = max(self.alive_s, self.sent_at - self.origin)
        if seen.progress is not None and seen.progress.total > 0:
            self.track = self.track.seen(seen.progress.completed, seen.progress.total, self.sent_at - self.origin)

    def note_pause(self, until: float) -> None:
        """Note that the provider asked for no poll of this run before `until`; an earlier, longer pause stays."""
        self.not_before = max(self.not_before, until)

    def note_runs_known(self, runs: float) -> None:
        """Note that the run goes on after `runs` of its workflow have been learned from."""
        self.runs_known = runs

    def note_recorded(self, after: Run, *, began_at: tuple[datetime, float] | None = None) -> None:
        """Take the run as recorded; `began_at`: it was then (wall and monotonic time) found in a new status."""
        self.run = after
        self.last_response = None
        if began_at is not None:
            self._count_age(*began_at)

    def is_known(self, seen: Observation) -> bool:
        """Whether this is what the last response showed, so that nothing can have changed."""
        return self.last_response is not None and seen is self.last_response.observation

    def keep_response(self, seen: Observed) -> None:
        """Keep the response to recognise it again. Call this after recording: a 304 would hide an unrecorded change."""
        last = self.last_response
        if last is None or not self.is_known(seen.observation) or seen.etag != last.etag:
            is_recognisable = seen.etag or seen.body
            self.last_response = (
                LastResponse(transition.unchanged(self.run), seen.etag, seen.body) if is_recognisable else None
            )

    def plan(self, due: float, next_poll_at: datetime, reason: str) -> None:
        """Set when it is polled next, on both clocks, and why then."""
        self.due, self.next_poll_at, self.reason = due, next_poll_at, reason

    def rebase(self, jump_s: float) -> None:
        """Move the wall times after a jump of the wall clock, as the database moves its own."""
        jump = timedelta(seconds=jump_s)
        self.is_tainted = True
        deadline_at = self.run.deadline_at
        if deadline_at is not None and not self.run.deadline_is_fixed:
            deadline_at += jump
        since, due_at = self.run.status_since + jump, self.run.next_poll_at and self.run.next_poll_at + jump
        self.run = replaced(self.run, status_since=since, deadline_at=deadline_at, next_poll_at=due_at)
        self.next_poll_at = self.next_poll_at and self.next_poll_at + jump
        self.not_found_since = self.not_found_since and self.not_found_since + jump

    def with_counters(self) -> Run:
        """The run with what was counted in memory."""
        return replaced(
            self.run,
            polls=self.polls,
            last_polled_at=self.last_polled_at,
            failure_streak=self.failure_streak,
            not_found_count=self.not_found_count,
            not_found_since=self.not_found_since,
            last_error=self.last_error,
        )

    def record(self) -> PollRecord:
        """The record that the database needs when the lease is released."""
        return PollRecord(
            self.run.id,
            self.polls,
            self.last_polled_at,
            self.next_poll_at,
            self.failure_streak,
            self.not_found_count,
            self.not_found_since,
            self.last_error,
        )


class PollSchedule:
    """The tracked runs of one connection: found by id, taken by due time, then by urgency.

    Several connections of one credential share a limiter; each has a schedule and takes turns with the others.
    """

    def __init__(self, connection: Connection, limiter: FairRateLimiter, clock: Clock) -> None:
        self._name, self._price_s = connection.name, connection.cadence.price_s
        self._limiter = limiter
        self._clock = clock
        self._runs: dict[str, TrackedRun] = {}
        self._by_provider_id: dict[str, TrackedRun] = {}
        self._heap: list[tuple[float, int, str]] = []  # due, ticket, id; an entry whose ticket has changed is stale
        self._tickets = count(1)
        self._ready: list[tuple[float, TrackedRun]] = []  # with what a poll is worth, in seconds; most urgent last
        self._rank_due = -math.inf
        self.is_scarce = False
        """Whether ready runs had to wait for the limiter at the end of the last pass."""
        self.turn_due = -math.inf
        """When this connection may have its turn, after another one's."""

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def ready_count(self) -> int:
        """The number of due runs that wait for the limiter."""
        return len(self._ready)

    @property
    def top_worth_s(self) -> float:
        """The worth of the most urgent ready run, in seconds of delay; 0 without one."""
        return self._ready[-1][0] if self._ready else 0.0

    @property
    def order_size(self) -> int:
        """Entries in the order of due times; at most twice the runs held and `STALE_MAX` more."""
        return len(self._heap)

    def get(self, run_id: str) -> TrackedRun | None:
        """The run with this id, if it is held."""
        return self._runs.get(run_id)

    def find(self, provider_run_id: str) -> TrackedRun | None:
        """The run with this id at the provider, if it is held."""
        return self._by_provider_id.get(comparable_run_id(provider_run_id))

    def holds(self, tracked: TrackedRun) -> bool:
        """Whether this very object is held; it may have been removed, and its run acquired again, during a poll."""
        return self._runs.get(tracked.run.id) is tracked

    def some(self, limit: int) -> Iterable[TrackedRun]:
        """Up to `limit` runs, those held longest first."""
        return islice(self._runs.values(), limit)

    def all(self) -> list[TrackedRun]:
        """Every run held."""
        return list(self._runs.values())

    # -- when each is due

    def add(self, tracked: TrackedRun) -> None:
        """Hold a run, or put one that is held into the order by its new due time."""
        run_id = tracked.run.id
        if self._runs.get(run_id) is not tracked:
            self._runs[run_id] = tracked
            self._by_provider_id[comparable_run_id(tracked.run.provider_run_id)] = tracked
        tracked.ticket = next(self._tickets)
        heapq.heappush(self._heap, (tracked.due, tracked.ticket, run_id))
        if len(self._heap) > 2 * len(self._runs) + STALE_MAX:
            self._tidy()

    def remove(self, run_id: str) -> TrackedRun | None:
        """Hold this run no longer."""
        tracked = self._runs.pop(run_id, None)
        if tracked is not None:
            self._by_provider_id.pop(comparable_run_id(tracked.run.provider_run_id), None)
        if len(self._heap) > 2 * len(self._runs) + STALE_MAX:
            self._tidy()
        return tracked

    def _tidy(self) -> None:
        """Drop the stale entries."""
        live = {tracked.ticket for tracked in self._runs.values()}
        self._heap = [entry for entry in self._heap if entry[1] in live]
        heapq.heapify(self._heap)

    def plan(self, tracked: TrackedRun, delay_s: float, reason: str, wall: datetime) -> None:
        """Set when, in seconds from now (`wall`), and why a held run is polled next."""
        tracked.plan(self._clock.monotonic() + delay_s, wall + timedelta(seconds=delay_s), reason)
        self.add(tracked)

    def postpone(self, tracked: TrackedRun, due: float) -> None:
        """Put a run, if it is held, into the order at another time; what people are shown stays."""
        if self.holds(tracked):
            tracked.due = due
            self.add(tracked)

    def poll_now(self, tracked: TrackedRun, reason: str | None = None) -> None:
        """Make a held run due now, without waiting for a list, unless it is in flight; `reason` is for display."""
        if not self.holds(tracked) or tracked.is_in_flight:
            return
        now = self._clock.monotonic()
        tracked.is_wanted = True
        if reason is not None:
            tracked.plan(now, self._clock.now(), reason)
        self.postpone(tracked, now)

    def take_due(self, now: float, limit: int) -> list[TrackedRun]:
        """Up to `limit` due runs, the most overdue first, taken out of the order of due times."""
        taken: list[TrackedRun] = []
        while len(taken) < limit and (due := self._first_due()) is not None and due <= now:
            tracked = self._runs[heapq.heappop(self._heap)[2]]
            tracked.ticket = 0
            taken.append(tracked)
        return taken

    def next_due(self) -> float:
        """When the next run is due: at once while some are ready, never without any."""
        due = -math.inf if self._ready else self._first_due()
        return math.inf if due is None else due

    def has_overdue(self, now: float) -> bool:
        """Whether a run that is not ranked yet is due."""
        due = self._first_due()
        return due is not None and due <= now

    def _first_due(self) -> float | None:
        while self._heap:
            due, ticket, run_id = self._heap[0]
            tracked = self._runs.get(run_id)
            if tracked is not None and tracked.ticket == ticket:
                return due
            heapq.heappop(self._heap)
        return None

    # -- which goes next

    def take_to_rank(self, now: float) -> list[TrackedRun] | None:
        """The ready runs and those that became due, for `set_ready`; None while the present order stands."""
        if self._ready and now < self._rank_due:
            return None
        waiting = [tracked for _, tracked in self._ready if self._is_ready(tracked)]
        return waiting + self.take_due(now, READY_MAX - len(self._ready))

    def set_ready(self, ranked: Sequence[tuple[float, TrackedRun]], now: float) -> None:
        """Set the ready runs, each with what a poll of it is worth in seconds, most urgent last.

        `now` is when ranking began: the longer it took, the later the runs are ranked again.
        """
        self._ready = list(ranked)
        took_s = self._clock.monotonic() - now
        self._rank_due = now + max(RANK_EVERY_S, took_s / RANK_SHARE)

    def take_ready(self, now: float) -> TrackedRun | None:
        """The most urgent ready run; None where there is none, or another connection of the credential has its turn."""
        while self._ready:
            worth_s, tracked = self._ready.pop()
            if not self._is_ready(tracked):
                continue
            rivals = [self._candidate(worth_s, tracked)]
            if self._ready and (self.is_scarce or self._limiter.has_others(self._name)):
                rivals.append(self._candidate(*self._ready[-1]))
            if self._limiter.admit(rivals, now=now, is_scarce=self.is_scarce):
                return tracked
            self._ready.append((worth_s, tracked))
            self.turn_due = now + TURN_REST_S
            return None
        return None

    def _is_ready(self, tracked: TrackedRun) -> bool:
        return self._runs.get(tracked.run.id) is tracked and not tracked.is_in_flight and not tracked.ticket

    def _candidate(self, worth_s: float, tracked: TrackedRun | None) -> Candidate:
        return Candidate(tracked and tracked.run.id, max(worth_s, self._price_s), self._price_s, self._name)

    def queue_at_limiter(self, call: Callable[[], None], *, waits: bool) -> None:
        """At the end of a pass: have `call` called when the limiter may open for this connection, if a run `waits`."""
        self.is_scarce = bool(self._ready)
        if waits:
            first = self._ready[-1] if self._ready else (self._price_s, None)
            self._limiter.call_when_open(self._candidate(*first), call)
        else:
            self._limiter.forget(self._name)
