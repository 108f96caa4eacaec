"""Counts of everything, kept between requests: a large database is counted in the background, ever more seldom."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.store.database import Database
from bridge.store.summary import MINUTES, Counts, Minute, count_all, count_minutes, keep_counts, kept
from bridge.store.transaction import Tx

FRESH_S: Final = 1.0
SHARE_MAX: Final = 0.02
"""The share of the time that counting may take: a count of 100 ms is followed by a rest of 5 s."""
AWAITED_S: Final = 0.02
"""A count that took longer is not waited for: readers get the one before it."""
_STILL_CHANGING: Final = timedelta(minutes=2)

Reading = tuple[Counts, dict[datetime, Minute]]


class CountKeeper:
    """Owns the newest counts and the minutes of the last hour, of which only the newest two are counted again."""

    def __init__(self, database: Database, clock: Clock, measure: Callable[[], float] | None = None) -> None:
        self._database = database
        self._clock = clock
        self._measure = measure or (time.thread_time if database.is_sqlite else time.perf_counter)
        self._kept: Reading | None = None
        self._task: asyncio.Task[Reading] | None = None
        self._took_s = 0.0
        self._stale_at = 0.0

    async def newest(self) -> Reading:
        """As `read`; but while the first count after a start takes long, what a node kept of the last long one."""
        if self._kept is None:
            await asyncio.wait({self.begin()}, timeout=AWAITED_S)
        if self._kept is None and (before := await self._database.read(kept)) is not None:
            return before, {}
        return await self.read()

    async def read(self) -> Reading:
        """The newest counts; waits for a count if there is none, or if it is quick."""
        if self._kept is not None and self._clock.monotonic() < self._stale_at:
            return self._kept
        task = self.begin()
        if self._kept is not None and self._took_s > AWAITED_S:
            return self._kept
        return await asyncio.shield(task)

    def begin(self) -> asyncio.Task[Reading]:
        """The count that is under way, or a new one."""
        if self._task is None:
            self._task = asyncio.create_task(self._count())
            self._task.add_done_callback(self._end)
        return self._task

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    async def _count(self) -> Reading:
        known = self._kept[1] if self._kept else {}
        hour_ago = self._clock.now().replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
        since = hour_ago
        if self._kept is not None:
            since = max(hour_ago, self._kept[0].at.replace(second=0, microsecond=0) - _STILL_CHANGING)

        def work(tx: Tx) -> tuple[Reading, float]:
            started = self._measure()
            kept = {at: minute for at, minute in known.items() if hour_ago <= at < since}
            reading = count_all(tx), {**kept, **count_minutes(tx, since)}
            return reading, self._measure() - started

        reading, self._took_s = await self._database.read(work)
        self._kept = reading
        self._stale_at = self._clock.monotonic() + max(FRESH_S, self._took_s / SHARE_MAX)
        if self._took_s > AWAITED_S:
            with contextlib.suppress(StoreUnavailable):  # a full disk, for example, is no reason not to count
                await self._database.write(lambda tx: keep_counts(tx, reading[0]))
        return reading

    def _end(self, task: asyncio.Task[Reading]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            self._kept = None  # so that the next reader counts, and hears of the database
