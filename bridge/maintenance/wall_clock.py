"""The watch on the wall clock: when it is set, the due times in the database move along."""

from __future__ import annotations

from typing import Final

import structlog

from bridge.domain.clock import Clock
from bridge.store import deliveries, runs
from bridge.store.database import Database
from bridge.store.transaction import Tx

log = structlog.get_logger()
EVERY_S: Final = 2.0
JUMP_S: Final = 2.0  # smaller steps are the clock's regular correction (NTP)


class WallClockWatch:
    """Notices that the wall clock was set, by its offset to the monotonic clock."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._offset_s = self._read()

    async def follow(self) -> float:
        """The seconds by which the wall clock was set since the last call, 0 if it was not.

        On SQLite, where every time in the database is this machine's, due times and beginnings are moved by as much.
        """
        offset_s = self._read()
        jump_s = offset_s - self._offset_s
        if abs(jump_s) < JUMP_S:
            self._offset_s = offset_s
            return 0.0
        log.warning("clock.jumped", seconds=round(jump_s, 3))
        if self._database.is_sqlite:
            await self._database.write(lambda tx: _shift(tx, jump_s))
        self._offset_s = offset_s
        return jump_s

    def _read(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()


def _shift(tx: Tx, jump_s: float) -> None:
    runs.shift_times(tx, jump_s)
    deliveries.shift_times(tx, jump_s)
