"""The runs in hand: claimed from the database, held in memory while they are due soon, ordered by due time.

A poll that changes nothing is counted here and writes nothing. When a run is next due in a while it is put
back; after a crash the lapsed lease makes it due again, and asking once more is harmless.
"""

from __future__ import annotations

import heapq
from datetime import datetime
from itertools import count

from bridge.domain.run import Run
from bridge.store.runs import PollRecord


class Watch:
    """One run in hand. `due` is monotonic seconds; the counters run ahead of the database."""

    __slots__ = (
        "due",
        "failure_streak",
        "is_in_flight",
        "last_polled_at",
        "next_poll_at",
        "not_found_count",
        "not_found_since",
        "polls",
        "reason",
        "run",
        "ticket",
    )

    def __init__(self, run: Run, due: float) -> None:
        self.run = run
        self.due = due
        self.polls = run.polls
        self.last_polled_at = run.last_polled_at
        self.next_poll_at = run.next_poll_at
        self.failure_streak = run.failure_streak
        self.not_found_count = run.not_found_count
        self.not_found_since = run.not_found_since
        self.reason: str | None = None
        self.is_in_flight = False
        self.ticket = 0

    def count_poll(self, now: datetime) -> None:
        """A poll is being made."""
        self.polls += 1
        self.last_polled_at = now

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
        self._heap: list[tuple[float, int, str]] = []
        self._tickets = count(1)

    def __len__(self) -> int:
        return len(self._watches)

    def get(self, run_id: str) -> Watch | None:
        """The watch of a run, if it is in hand."""
        return self._watches.get(run_id)

    def hold(self, watch: Watch) -> None:
        """Take a watch in hand, or give one that is held a new due time."""
        self._watches[watch.run.id] = watch
        watch.ticket = next(self._tickets)
        heapq.heappush(self._heap, (watch.due, watch.ticket, watch.run.id))

    def drop(self, run_id: str) -> Watch | None:
        """Let go of a run."""
        return self._watches.pop(run_id, None)

    def take_due(self, now: float) -> Watch | None:
        """The most overdue watch that is not being polled, or None."""
        while (due := self.next_due()) is not None and due <= now:
            watch = self._watches[heapq.heappop(self._heap)[2]]
            watch.ticket = 0
            return watch
        return None

    def next_due(self) -> float | None:
        """When the next watch is due; stale entries fall out on the way."""
        while self._heap:
            due, ticket, run_id = self._heap[0]
            watch = self._watches.get(run_id)
            if watch is not None and watch.ticket == ticket:
                return due
            heapq.heappop(self._heap)
        return None

    def all(self) -> list[Watch]:
        """Every watch in hand."""
        return list(self._watches.values())
