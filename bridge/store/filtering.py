"""Filters of endpoints: judged inside a write transaction while that is cheap, and before it otherwise.

A filter may be costly and an event may have 256 KiB, so judging must not hold the database's only writer. A commit
spends at most `WITHIN_S` on filters; what is not decided then stays open, and the transaction raises `Undecided`.
`Database.write` undoes it, judges on another thread, and runs the work again with these verdicts. A verdict is about
the type and the data of an event, which are the same when it is made again.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bridge.domain.errors import FilterFailed, FilterTooCostly
from bridge.domain.event import Event
from bridge.domain.filter import STEPS_MAX, evaluate
from bridge.domain.run import Json

WITHIN_S: Final = 0.02  # per commit
STEPS_WITHIN: Final = 2_000  # of one filter on one event: some 2 ms
REST_SHARE: Final = 0.25  # of the time that judging took outside: enough for the event loop and a commit

Question = tuple[str, str, bytes]  # the expression, the event's type and its data


class Undecided(Exception):
    """Filters of this transaction must be judged outside it."""


@dataclass(slots=True)
class FilterBudget:
    """The time that one commit may still spend on filters."""

    left_s: float = WITHIN_S


class _Subject:
    """The body of an event, its data, and what it holds."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.data = body.partition(b',"data":')[2]

    @functools.cached_property
    def parsed(self) -> Json:
        """The body as JSON."""
        parsed: Json = json.loads(self.body)
        return parsed


@dataclass(slots=True)
class Filters:
    """The verdicts for one piece of work; without a budget it judges everything at once."""

    budget: FilterBudget | None = None
    is_limited: bool = True
    now: datetime | None = None
    """When the work first ran. It runs again as of then, so that it makes the same events."""
    _verdicts: dict[Question, bool] = field(default_factory=dict)
    _failed: set[Question] = field(default_factory=set)
    _open: dict[Question, bytes] = field(default_factory=dict)
    _last: _Subject | None = None

    def accepts(self, expression: str, event: Event) -> bool:
        """Whether the filter accepts the event. False also if that is still open; see `check`."""
        subject = self._subject(event.body)
        question = (expression, event.type.value, subject.data)
        if question not in self._verdicts:
            verdict = self._judge(question, subject)
            if verdict is None:
                self._open[question] = event.body
                return False
            self._verdicts[question] = verdict
        return self._verdicts[question]

    def has_failed(self, expression: str, event: Event) -> bool:
        """Whether the filter, which was asked about this event, failed on it."""
        return bool(self._failed) and (expression, event.type.value, self._subject(event.body).data) in self._failed

    def check(self) -> None:
        """Raise Undecided if a filter was too costly to be judged in this transaction."""
        if self.is_open:
            raise Undecided

    def begin(self, now: datetime, budget: FilterBudget) -> datetime:
        """Begin a transaction with this budget; the instant at which it happens."""
        self.budget = budget
        self._open.clear()
        self.now = self.now or now
        return self.now

    @property
    def is_open(self) -> bool:
        """Whether a filter is still to be judged."""
        return bool(self._open)

    def decide_next(self) -> None:
        """Judge one open filter on one event, which takes up to 50 ms; then leave the interpreter to other threads."""
        began_at = time.perf_counter()
        question, body = self._open.popitem()
        self._verdicts[question] = self._evaluate(question, self._subject(body), STEPS_MAX) is True
        time.sleep((time.perf_counter() - began_at) * REST_SHARE)

    def _judge(self, question: Question, subject: _Subject) -> bool | None:
        if self.budget is None or not self.is_limited:
            return self._evaluate(question, subject, STEPS_MAX)
        if self.budget.left_s <= 0:
            return None
        began_at = time.perf_counter()
        try:
            return self._evaluate(question, subject, STEPS_WITHIN)
        finally:
            self.budget.left_s -= time.perf_counter() - began_at

    def _evaluate(self, question: Question, subject: _Subject, steps_max: int) -> bool | None:
        """The verdict; None if it takes more steps than these and may take more."""
        try:
            return evaluate(question[0], subject.parsed, steps_max=steps_max)
        except FilterTooCostly:
            if steps_max < STEPS_MAX:
                return None
        except FilterFailed:
            pass
        self._failed.add(question)
        return False

    def _subject(self, body: bytes) -> _Subject:
        """The result of the last call, if it was about the same body: all filters judge one event after the other."""
        if self._last is None or self._last.body is not body:
            self._last = _Subject(body)
        return self._last
