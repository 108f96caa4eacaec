"""Keeping what one poller's learner has learned, and taking over what other nodes learn of the same connection.

Two nodes that watch runs of one workflow both save its state. So before saving, what the other saved meanwhile is
read, and one's own lessons since the last time are learned once more on top of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from bridge.store import sojourns
from bridge.store.database import Database
from bridge.store.sojourns import SojournRow
from bridge.store.transaction import Tx
from bridge.workers.learner import Learner

OVERLAP: Final = timedelta(minutes=1)  # read twice rather than missed where the nodes' clocks differ


class Lessons:
    """Of one connection."""

    def __init__(self, learner: Learner, database: Database, connection: str) -> None:
        self._learner = learner
        self._database = database
        self._connection = connection
        self._read_at = database.clock.now()

    async def save(self) -> None:
        """Take over what others learned, save what we did; whatever gets lost on the way is soon learned anew."""
        if not self._database.is_sqlite:
            await self._take_over()
        lessons = self._learner.take_lessons()
        if lessons:
            await self._database.write(lambda tx: sojourns.save_sojourns(tx, self._connection, lessons))

    async def _take_over(self) -> None:
        def read(tx: Tx) -> tuple[list[SojournRow], datetime]:
            return sojourns.list_changed(tx, self._connection, self._read_at - OVERLAP), tx.now

        rows, self._read_at = await self._database.read(read)
        self._learner.adopt(rows)
