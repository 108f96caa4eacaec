"""Counts of everything, kept between requests: a large database is counted in the background, ever more seldom."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.store.database import Database
from bridge.store.summary import Counts, Minute, count_all, count_minutes, keep_counts, kept
from bridge.store.transaction import Tx

FRESH_S: Final = 1.0
SHARE_MAX: Final = 0.02
"""The share of the time that counting may take: a count of 100 ms is followed by a rest of 5 s."""
AWAITED_S: Final = 0.02
"""Readers wait this long for a new count; after that they get the previous one."""
OLD_S: Final = 60.0
AWAITED_WHEN_OLD_S: Final = 1.0
"""They wait so long if the previous one is older than `OLD_S`: nothing counts while no reader asks."""
_STILL_CHANGING: Final = timedelta(minutes=2)
HOURS: Final = 24
_HOUR: Final = timedelta(hours=1)

Reading = tuple[Counts, dict[datetime, Minute]]


class CountKeeper:
    """Owns the newest counts, the minutes of this hour and the one before it, and the hours of the last day.

    Only the newest two minutes are counted again. An hour that is over is the sum of its minutes. The hours before the
    start are counted once: together, or, in a large database, one after each count.
    """

    def __init__(self, database: Database, clock: Clock, measure: Callable[[], float] | None = None) -> None:
        self._database = database
        self._clock = clock
        self._measure = measure or (time.thread_time if database.is_sqlite else time.perf_counter)
        self._kept: Reading | None = None
        self._task: asyncio.Task[Reading] | None = None
        self._began_at = 0.0
        self._took_s = 0.0
        self._stale_at = 0.0
        self._hours: dict[datetime, Minute] = {}
        self._filling: asyncio.Task[None] | None = None

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
            if self._clock.monotonic() - self._began_at > OLD_S:
                await asyncio.wait({task}, timeout=AWAITED_WHEN_OLD_S)
            if self._kept is not None:  # otherwise the count has failed
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
        for task in (self._task, self._filling):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def hours(self, now: datetime, minutes: Mapping[datetime, Minute]) -> dict[datetime, Minute | None]:
        """The last 24 hours, oldest first; None: not counted yet. The minutes of the newest two are added up."""
        current = _hour_of(now)
        past = (current - back * _HOUR for back in range(HOURS - 1, 0, -1))
        found = {at: self._hours.get(at) for at in past}
        if self._kept is not None:
            found[current - _HOUR] = found[current - _HOUR] or _sum(minutes, current - _HOUR)
        return {**found, current: _sum(minutes, current)}

    async def _fill(self) -> None:
        """Count hours that are over and were not counted yet, the newest first."""
        last = _hour_of(self._clock.now())
        wanted = [last - back * _HOUR for back in range(2, HOURS)]
        missing = [at for at in wanted if at not in self._hours]
        if not missing:
            return
        since = missing[0] if self._took_s > AWAITED_S else missing[-1]
        with contextlib.suppress(StoreUnavailable):
            found = await self._database.read(lambda tx: count_minutes(tx, since, missing[0] + _HOUR, size=60))
            counted = {at: found.get(at, Minute()) for at in wanted if since <= at <= missing[0]}
            self._hours = {at: hour for at, hour in {**self._hours, **counted}.items() if at >= wanted[-1]}

    async def _count(self) -> Reading:
        began = self._clock.monotonic()
        known = self._kept[1] if self._kept else {}
        current = _hour_of(self._clock.now())
        first = since = current - _HOUR
        if self._kept is not None:
            since = max(first, self._kept[0].at.replace(second=0, microsecond=0) - _STILL_CHANGING)

        def work(tx: Tx) -> tuple[Reading, float]:
            started = self._measure()
            kept = {at: minute for at, minute in known.items() if first <= at < since}
            reading = count_all(tx), {**kept, **count_minutes(tx, since)}
            return reading, self._measure() - started

        reading, self._took_s = await self._database.read(work)
        self._kept, self._began_at = reading, began
        if reading[0].at >= current + _STILL_CHANGING:
            self._hours[first] = _sum(reading[1], first)
        self._stale_at = began + max(FRESH_S, self._took_s / SHARE_MAX)  # what was recorded since may not be in it
        if self._took_s > AWAITED_S:
            with contextlib.suppress(StoreUnavailable):  # a full disk, for example, is no reason not to count
                await self._database.write(lambda tx: keep_counts(tx, reading[0]))
        return reading

    def _end(self, task: asyncio.Task[Reading]) -> None:
        self._task = None
        if not task.cancelled() and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self._fill())
        if not task.cancelled() and task.exception() is not None:
            self._kept = None  # so that the next reader counts, and gets the error of the database


def _hour_of(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _sum(minutes: Mapping[datetime, Minute], hour: datetime) -> Minute:
    """The counts of the hour that begins then."""
    its = [minute for at, minute in minutes.items() if _hour_of(at) == hour]
    return Minute(*(sum(getattr(minute, name) for minute in its) for name in ("settled", "delivered", "failed")))
