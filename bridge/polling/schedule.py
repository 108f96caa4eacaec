"""The runs in hand: claimed from the database, held in memory while they are due soon, ordered by due time.

A poll that changes nothing is counted here and writes nothing. When a run is next due in a while it is put
back; after a crash the lapsed lease makes it due again, and asking once more is harmless.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import count, islice
from typing import Final

from bridge.domain.cadence.progress import ProgressTrack
from bridge.domain.frozen import replaced
from bridge.domain.observation import FailureKind
from bridge.domain.run import Run
from bridge.store.runs import PollRecord

STALE_MAX: Final = 1_000  # entries in the order of due times beyond twice the runs in hand


class Watch:
    """One run in hand; the counters run ahead of the database.

    Monotonic seconds: `due`, `sent_at` (the last look), `not_before` (a wish of the provider), `origin` (when its
    present status began). Ages: `alive_s`, at which it was last seen alive in it. `worth_s`: of a look, when it was last ranked. `is_tainted`:
    the clock jumped while it was there. `etag`, `body`: of the answer that showed the run as it is; `is_304`: the last
    look was answered so. `is_wanted`: a look at this very run, now, whatever the plan says. `runs_known`: how many runs
    of its workflow had taught something when it was first seen going on.
    """

    __slots__ = (
        "alive_s",
        "body",
        "due",
        "etag",
        "failure_streak",
        "is_304",
        "is_in_flight",
        "is_tainted",
        "is_wanted",
        "last_polled_at",
        "next_poll_at",
        "not_before",
        "not_found_count",
        "not_found_since",
        "origin",
        "polls",
        "reason",
        "run",
        "runs_known",
        "sent_at",
        "sightings",
        "ticket",
        "track",
        "worth_s",
    )

    def __init__(self, run: Run, due: float, *, now: datetime, monotonic: float) -> None:
        self.run = run
        self.due = due
        self.alive_s = 0.0
        self.runs_known: float | None = None
        self.sent_at = monotonic
        self.track = ProgressTrack()
        self.worth_s = 0.0
        self.not_before = -math.inf
        self.is_tainted = False
        self.begin(now, monotonic)
        self.polls = run.polls
        self.sightings = 0
        self.last_polled_at = run.last_polled_at
        self.next_poll_at = run.next_poll_at
        self.failure_streak = run.failure_streak
        self.not_found_count = run.not_found_count
        self.not_found_since = run.not_found_since
        self.reason: str | None = None
        self.is_in_flight = False
        self.etag: str | None = None
        self.body: bytes | None = None
        self.is_304 = False
        self.is_wanted = False
        self.ticket = 0

    def begin(self, now: datetime, monotonic: float) -> None:
        """The run is in a status anew, or was taken in hand: count its age from there, never negative."""
        age_s = max(0.0, (now - self.run.status_since).total_seconds())
        self.origin = monotonic - age_s
        seen_at = self.last_seen_at()
        self.alive_s = max(0.0, (seen_at - self.run.status_since).total_seconds()) if seen_at else 0.0

    def last_seen_at(self) -> datetime | None:
        """When the run was last known to be alive in its present status, as the database tells."""
        if self.run.observed_at is None:
            return None
        looked_in_vain = self.run.failure_streak > 0
        return self.run.observed_at if looked_in_vain else self.run.last_polled_at or self.run.observed_at

    def count_poll(self, now: datetime, monotonic: float) -> None:
        """A poll is being made, by itself or with a list."""
        self.is_wanted = False
        self.polls += 1
        self.last_polled_at = now
        self.sent_at = monotonic

    @property
    def requests(self) -> int:
        """Polls that were made for this run alone; a sighting in a list is a poll too, but no request of its own."""
        return self.polls - self.sightings

    def count_failure(self, kind: FailureKind, now: datetime) -> None:
        """A poll brought nothing; any answer but 404 breaks the row of 404s."""
        self.failure_streak += 1
        if kind is FailureKind.NOT_FOUND:
            self.not_found_count += 1
            self.not_found_since = self.not_found_since or now
        else:
            self.not_found_count, self.not_found_since = 0, None

    def forget_failures(self) -> None:
        """A poll brought something."""
        self.failure_streak = self.not_found_count = 0
        self.not_found_since = None

    @property
    def is_scheduled(self) -> bool:
        """Whether it stands in the order of due times; not while it is ranked or being looked at."""
        return self.ticket != 0

    def with_counters(self) -> Run:
        """The run with what the polls in hand have counted."""
        return replaced(
            self.run,
            polls=self.polls,
            last_polled_at=self.last_polled_at,
            failure_streak=self.failure_streak,
            not_found_count=self.not_found_count,
            not_found_since=self.not_found_since,
        )

    def rebase(self, jump_s: float) -> None:
        """The wall clock jumped; the database's times are moved alike."""
        jump = timedelta(seconds=jump_s)
        self.is_tainted = True
        deadline_at = self.run.deadline_at
        if deadline_at is not None and not self.run.deadline_is_fixed:
            deadline_at += jump
        self.run = replaced(self.run, status_since=self.run.status_since + jump, deadline_at=deadline_at)
        self.next_poll_at = self.next_poll_at and self.next_poll_at + jump

    def record(self) -> PollRecord:
        """What the database is to know when the run is put back."""
        return PollRecord(
            self.run.id,
            self.polls,
            self.last_polled_at,
            self.next_poll_at,
            self.failure_streak,
            self.not_found_count,
            self.not_found_since,
        )


class Hand:
    """The watches of one connection: found by id, taken by due time."""

    def __init__(self) -> None:
        self._watches: dict[str, Watch] = {}
        self._by_their_id: dict[str, Watch] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._tickets = count(1)

    def __len__(self) -> int:
        return len(self._watches)

    def get(self, run_id: str) -> Watch | None:
        """The watch of a run, if it is in hand."""
        return self._watches.get(run_id)

    def find(self, provider_run_id: str) -> Watch | None:
        """The same by the provider's id of the run."""
        return self._by_their_id.get(provider_run_id)

    def hold(self, watch: Watch) -> None:
        """Take a watch in hand, or give one that is held a new due time."""
        self._watches[watch.run.id] = watch
        self._by_their_id[watch.run.provider_run_id] = watch
        watch.ticket = next(self._tickets)
        heapq.heappush(self._heap, (watch.due, watch.ticket, watch.run.id))

    def drop(self, run_id: str) -> Watch | None:
        """Let go of a run."""
        watch = self._watches.pop(run_id, None)
        if watch is not None:
            self._by_their_id.pop(watch.run.provider_run_id, None)
        if len(self._heap) > 2 * len(self._watches) + STALE_MAX:
            self._tidy()
        return watch

    def _tidy(self) -> None:
        """Forget the due times of what was dropped or held anew; after a storm they would stay for as long."""
        live = {watch.ticket for watch in self._watches.values()}
        self._heap = [entry for entry in self._heap if entry[1] in live]
        heapq.heapify(self._heap)

    def hold_until(self, watch: Watch, due: float) -> None:
        """Put a watch into the order at another time, if it is still in hand."""
        if self._watches.get(watch.run.id) is watch:
            watch.due = due
            self.hold(watch)

    def take_due(self, now: float, limit: int) -> list[Watch]:
        """Up to `limit` due watches, the most overdue first; they are out of the order until held again."""
        taken: list[Watch] = []
        while len(taken) < limit and (due := self.next_due()) is not None and due <= now:
            watch = self._watches[heapq.heappop(self._heap)[2]]
            watch.ticket = 0
            taken.append(watch)
        return taken

    def next_due(self) -> float | None:
        """When the next watch is due; stale entries fall out on the way."""
        while self._heap:
            due, ticket, run_id = self._heap[0]
            watch = self._watches.get(run_id)
            if watch is not None and watch.ticket == ticket:
                return due
            heapq.heappop(self._heap)
        return None

    def some(self, limit: int) -> Iterable[Watch]:
        """Up to `limit` watches, those longest in hand first."""
        return islice(self._watches.values(), limit)

    def all(self) -> list[Watch]:
        """Every watch in hand."""
        return list(self._watches.values())
