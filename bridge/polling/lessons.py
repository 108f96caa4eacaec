"""Keeping what one poller has learned, durations and rate, and taking over what other nodes learn of durations.

Two nodes that watch runs of one workflow both save its state. So before saving, what the other saved meanwhile is
read, and one's own lessons since the last time are learned once more on top of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.limits.adaptive import RateLimit
from bridge.polling.duration_learner import DurationLearner
from bridge.store import learned_state
from bridge.store.database import Database
from bridge.store.learned_state import LearnedRow
from bridge.store.transaction import Tx

RATE: Final = "rate"  # a kind of row
RATE_STEP: Final = 0.1  # a rate is saved when it has changed by this much of itself
OVERLAP: Final = timedelta(minutes=1)  # read twice rather than missed where the nodes' clocks differ


class Lessons:
    """Of one connection."""

    def __init__(self, learner: DurationLearner, rate_limit: RateLimit, database: Database, connection: str) -> None:
        self._learner = learner
        self._rate_limit = rate_limit
        self._saved_rate = rate_limit.rate
        self._database = database
        self._connection = connection
        self._read_at = database.clock.now()

    async def save(self) -> None:
        """Take over what others learned, save what we did; whatever gets lost on the way is soon learned anew."""
        if not self._database.is_sqlite:
            await self._take_over()
        lessons, rate = self._learner.take_lessons(), self._rate_limit.rate
        if self.has_rate:
            lessons.append(LearnedRow(RATE, "", "", self._rate_limit.dump()))
        if lessons:
            await self._database.write(lambda tx: learned_state.save_learned(tx, self._connection, lessons))
            self._saved_rate = rate

    @property
    def has_rate(self) -> bool:
        """Whether the rate is another than the one that was saved."""
        return not self._rate_limit.is_known and abs(self._rate_limit.rate / self._saved_rate - 1) > RATE_STEP

    async def _take_over(self) -> None:
        def read(tx: Tx) -> tuple[list[LearnedRow], datetime]:
            return learned_state.list_changed(tx, self._connection, self._read_at - OVERLAP), tx.now

        rows, self._read_at = await self._database.read(read)
        self._learner.adopt(rows)


def recall_rate(rate_limit: RateLimit, rows: Iterable[LearnedRow]) -> None:
    """Go on with the rate that was learned before this start, if one was saved."""
    rate_limit.recall(next((row.state for row in rows if row.kind == RATE), None))
