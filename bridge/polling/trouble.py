"""Trouble of a connection rather than of one of its runs: nothing can be read, or no run is found any more."""

from __future__ import annotations

import math
from typing import Final

from bridge.domain.failure import FailureKind
from bridge.domain.observation import PollFailed

UNREADABLE_S = 75.0  # people are to know within two minutes
WITNESS_S: Final = 45.0  # after so long with one failing run, another is polled to see if it is the connection
LATEST_MAX: Final = 10  # runs whose latest polls show whether trouble is over
ABOUT_ONE_RUN: Final = frozenset({FailureKind.REJECTED, FailureKind.BAD_PAYLOAD})  # may concern one run only


class MissingRuns:
    """Distinguishes a connection that finds none of its runs any more from runs that are gone at the provider.

    It is the connection if two runs or more are missing, and one of them that was found before has been missing since
    after any run was last found. Times are monotonic.
    """

    def __init__(self) -> None:
        self._missing: dict[str, tuple[float, bool]] = {}  # since when, and whether the run was found before
        self._found_at = -math.inf

    def note_found(self, run_id: str, now: float) -> None:
        """A poll or a list has shown this run."""
        self._found_at = now
        self._missing.pop(run_id, None)

    def note_missing(self, run_id: str, now: float, *, was_found: bool) -> bool:
        """The provider answered 404 for this run; whether the connection is the cause."""
        self._missing.setdefault(run_id, (now, was_found))
        return len(self._missing) > 1 and any(known and at > self._found_at for at, known in self._missing.values())

    def forget(self, run_id: str) -> None:
        """The run is not polled here any more."""
        self._missing.pop(run_id, None)


class Unreadable:
    """A period in which almost no poll of the connection can be read. Times are monotonic.

    It ends when half of the latest polls could be read, one of each run: one answer among many means nothing.
    """

    def __init__(self) -> None:
        self.error: PollFailed | None = None
        """The latest failure of the period; None outside one."""
        self.runs: set[str | None] = set()
        """The runs that have failed in it."""
        self._since = 0.0
        self._witness_due = 0.0
        self._is_read: dict[str | None, bool] = {}  # the latest poll of the runs that were polled last, the newest last

    def note_failed(self, failed: PollFailed, run_id: str | None, sent_at: float) -> None:
        """Note that a poll failed; the first failure begins a period."""
        if self.error is None:
            self.runs, self._is_read = set(), {}
            self._since, self._witness_due = sent_at, sent_at + WITNESS_S
        self.error = failed
        self.runs.add(run_id)
        self._note(run_id, is_read=False)

    def note_read(self, run_id: str | None) -> None:
        """Note that a poll could be read, or a list that showed a run: that is None here, and ends the period."""
        if self.error is None:
            return
        self._note(run_id, is_read=True)
        if run_id is None or 2 * sum(self._is_read.values()) >= len(self._is_read):
            self.error = None

    def forget(self, run_id: str) -> None:
        """The run is not polled here any more."""
        self._is_read.pop(run_id, None)

    def _note(self, run_id: str | None, *, is_read: bool) -> None:
        self._is_read.pop(run_id, None)
        self._is_read[run_id] = is_read
        if len(self._is_read) > LATEST_MAX:
            del self._is_read[next(iter(self._is_read))]

    def is_trouble(self, now: float, runs_held: int) -> bool:
        """Whether it has lasted for `UNREADABLE_S` and concerns the connection."""
        return self.error is not None and now - self._since >= UNREADABLE_S and self._is_shared(runs_held)

    def _is_shared(self, runs_held: int) -> bool:
        """Whether its kind concerns the connection, or it struck two runs where two are held."""
        is_about_one = self.error is not None and self.error.kind in ABOUT_ONE_RUN
        return not is_about_one or len(self.runs) >= min(runs_held, 2)

    def rest_s(self, now: float, runs_held: int) -> float:
        """Seconds until it may be trouble, or needs a witness."""
        if self.error is None:
            return math.inf
        trouble_due = self._since + UNREADABLE_S if self._is_shared(runs_held) else self._witness_due
        return trouble_due - now if trouble_due > now else math.inf

    def wants_witness(self, now: float, runs_held: int) -> bool:
        """Whether to poll another run now: only one was polled for `WITNESS_S`, and it failed."""
        if self.error is None or now < self._witness_due or self._is_shared(runs_held):
            return False
        self._witness_due = now + WITNESS_S
        return True
