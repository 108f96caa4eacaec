"""Following the wall clock when it is set, so that nothing becomes due or expires by it.

All instants come from a `SteadyClock`, which does not change when the machine's wall clock is set. On SQLite one commit
then moves every due time, deadline and beginning in the database, and within it the clock itself and what the workers
hold in memory. On PostgreSQL, where the other nodes and the server have clocks of their own, the server's decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

import structlog

from bridge.cluster.process_identity import boot_id
from bridge.domain.clock import SteadyClock
from bridge.domain.errors import StoreUnavailable
from bridge.store import clock_shift
from bridge.store.database import Database
from bridge.store.transaction import Tx

log = structlog.get_logger()
EVERY_S: Final = 2.0
JUMP_S: Final = 2.0  # a smaller step is a regular correction (NTP)


async def resume(database: Database, clock: SteadyClock) -> None:
    """At the start, on SQLite: see that the clock was set since the daemon before this one wrote.

    After a kill in the same boot its time goes on, so that `follow` moves everything: what it wrote at the end is in its
    own time, whether it had noticed or not. After a clean stop or in another boot only a clock that was set back shows,
    because the database was then last written in the future: what waits is made due earlier by that.
    """
    if not database.is_sqlite:
        return
    zero_at = await database.read(lambda tx: clock_shift.last_zero_at(tx, boot_id()))
    if zero_at is not None:
        ahead_s = (zero_at - clock.zero_at).total_seconds()
        if abs(ahead_s) >= JUMP_S:
            clock.shift(ahead_s)
    elif database.written_at is not None:
        ahead_s = (database.written_at - clock.now()).total_seconds()
        if ahead_s >= JUMP_S:
            await database.write(lambda tx: clock_shift.bring_forward(tx, ahead_s))


class WallClockWatch:
    """Each `rebase` moves the times that a worker holds in memory by so many seconds."""

    def __init__(self, database: Database, clock: SteadyClock, *rebase: Callable[[float], None]) -> None:
        self._database = database
        self._clock = clock
        self._rebase = rebase
        self._unsaved_s = 0.0
        self._ignored_s = 0.0
        """By how much this machine's clock is known to be ahead of the PostgreSQL server's."""

    async def follow(self) -> float:
        """Returns the seconds by which the wall clock was set since the last call, 0 if it was not."""
        lag_s = self._clock.lag_s()
        jump_s = lag_s - self._ignored_s
        if abs(jump_s) < JUMP_S:
            if not self._ignored_s:
                await self._correct(lag_s)
            return 0.0
        if self._database.is_sqlite:
            await self._follow_machine(lag_s)
        else:
            await self._follow_server()
        log.warning("clock.jumped", seconds=round(jump_s, 3))
        return jump_s

    async def _correct(self, seconds: float) -> None:
        """Follow a small step of the wall clock; from time to time, save what `resume` compares with."""
        self._clock.shift(seconds)
        self._unsaved_s += seconds
        if self._database.is_sqlite and abs(self._unsaved_s) >= JUMP_S / 2:
            await self._database.write(lambda tx: clock_shift.save_zero(tx, self._clock.zero_at))
            self._unsaved_s = 0.0

    async def _follow_machine(self, seconds: float) -> None:
        loop, has_moved = asyncio.get_running_loop(), Future[None]()

        def move() -> None:
            try:
                self._move(seconds)
            finally:
                has_moved.set_result(None)

        def shift(tx: Tx) -> None:
            clock_shift.shift_times(tx, seconds)
            loop.call_soon_threadsafe(move)
            has_moved.result()  # before the commit, so that no worker sees the database moved and the clock not

        try:
            await self._database.write_alone(shift)
        except StoreUnavailable:
            if not has_moved.done():
                raise
            if not await self._has_database_moved():
                self._move(-seconds)
                raise

    async def _has_database_moved(self) -> bool:
        """Whether the database is where the clock is: a commit may have happened although it reported an error.

        Moved twice, the database would be ahead of the clock, and runs would expire.
        """
        try:
            zero_at = await self._database.read(lambda tx: clock_shift.last_zero_at(tx, boot_id()))
        except StoreUnavailable:
            return False
        return zero_at is not None and abs((zero_at - self._clock.zero_at).total_seconds()) < JUMP_S / 2

    def _move(self, seconds: float) -> None:
        self._clock.shift(seconds)
        for rebase in self._rebase:
            rebase(seconds)

    async def _follow_server(self) -> None:
        at = await self._database.read(clock_shift.server_time)
        behind_s = (at - self._clock.now()).total_seconds()
        if abs(behind_s) >= JUMP_S:
            self._move(behind_s)
        self._ignored_s = self._clock.lag_s()
        if abs(self._ignored_s) < JUMP_S:
            self._ignored_s = 0.0
