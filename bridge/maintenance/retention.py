"""Retention: delete settled runs and what belongs to them by age and by size, in small transactions.

It writes only if there is something to delete, so that an idle daemon leaves the disk alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from bridge.domain.clock import Clock
from bridge.domain.finding import Finding
from bridge.runtime.metrics import Metrics
from bridge.store import inspection, retention
from bridge.store.database import Database
from bridge.store.retention import DeletionPlan
from bridge.store.transaction import Tx

log = structlog.get_logger()
PAUSE_S: Final = 0.05  # between transactions, for other writes
FULL_UNTIL: Final = 0.9  # of the size: what a database that has outgrown it is reduced to
FREE_SHARE_MAX: Final = (
    0.1  # of the file; free pages beyond it are returned to the file system, the rest is for new rows
)
PAGES_PER_STEP: Final = 200
JUMPS_MAX: Final = 1_000  # of the wall clock, the latest
BATCHES_POSTGRESQL: Final = 10  # between two estimates of the size


@dataclass(frozen=True, slots=True)
class Retention:
    """The time for which settled rows are kept, and the size that the database may reach (bytes)."""

    keep_s: float = 30 * 86400.0
    size_bytes: int = 10**9


_SIZE_ADVICE: Final = "all that is left is being watched or still to be delivered; raise [retention] size, or see which endpoint takes nothing"


class Housekeeper:
    """Sweeps when it is called; the daemon calls it every minute."""

    def __init__(self, *, database: Database, clock: Clock, metrics: Metrics, settings: Retention) -> None:
        self.settings = settings
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._is_too_large = False
        self._jumps: deque[tuple[float, float]] = deque(maxlen=JUMPS_MAX)
        """When the clock was set (monotonic), and by how many seconds."""

    def rebase(self, jump_s: float) -> None:
        """Take note that the clock was set: times of facts stay, so by them all would be older than it is."""
        self._jumps.append((self._clock.monotonic(), jump_s))

    def _set_forward_s(self) -> float:
        """The most by which a fact that is not to go yet may seem older than it is.

        What was recorded before a jump is old enough, whatever the clock says, once the jump is `keep_s` ago.
        """
        oldest = self._clock.monotonic() - self.settings.keep_s
        while self._jumps and self._jumps[0][0] <= oldest:
            self._jumps.popleft()
        ahead_s = 0.0
        for _, jump_s in self._jumps:
            ahead_s = max(0.0, ahead_s + jump_s)
        return ahead_s

    async def sweep(self) -> Counter[str]:
        """Delete everything that is to go now; returns the number of rows by table."""
        before = self._clock.now() - timedelta(seconds=self.settings.keep_s)
        recorded_before = before - timedelta(seconds=self._set_forward_s())
        swept = await self._sweep_all(lambda tx: retention.plan_settled(tx, before, recorded_before))
        swept += await self._sweep_all(lambda tx: retention.plan_leftovers(tx, recorded_before))
        swept += await self._sweep_to_size()
        pages = await self._release_pages()
        self._metrics.retention_last_run.set(self._clock.now().timestamp())
        if swept or pages:
            log.info(
                "retention.swept", **{f"{table}_deleted": count for table, count in swept.items()}, pages_released=pages
            )
        return swept

    async def _sweep_all(
        self, plan: Callable[[Tx], DeletionPlan], *, batches_max: float = float("inf")
    ) -> Counter[str]:
        """Plan and delete until the plan is empty, at most so many batches."""
        swept, batches = Counter[str](), 0
        while batches < batches_max and (rows := await self._sweep_once(plan)):
            swept.update(rows)
            batches += 1
            await asyncio.sleep(PAUSE_S)
        return swept

    async def _sweep_once(self, plan: Callable[[Tx], DeletionPlan]) -> dict[str, int]:
        planned = await self._database.read(plan)
        if planned.is_empty:
            return {}
        rows = await self._database.write(lambda tx: retention.delete_planned(tx, planned))
        for table, count in rows.items():
            self._metrics.retention_rows.labels(table).inc(count)
        return rows

    async def _sweep_to_size(self) -> Counter[str]:
        """If the rows exceed the size, delete the oldest settled ones, whatever their age, down to FULL_UNTIL of it."""
        limit, swept = self.settings.size_bytes, Counter[str]()
        used = await self._used()
        goal = limit if used <= limit else limit * FULL_UNTIL
        batches = 1 if self._database.is_sqlite else BATCHES_POSTGRESQL
        while used > goal:
            rows = await self._sweep_all(lambda tx: retention.plan_settled(tx, tx.now), batches_max=batches)
            if not rows:
                break
            swept += rows
            used = await self._used()
        self._warn_of_size(used)
        return swept

    async def _used(self) -> int:
        return await self._database.read(lambda tx: inspection.measure_used_bytes(tx, self.settings.size_bytes))

    def _warn_of_size(self, used: int) -> None:
        is_too_large = used > self.settings.size_bytes
        if is_too_large and not self._is_too_large:
            log.warning(
                "retention.too_large",
                used_bytes=used,
                size_bytes=self.settings.size_bytes,
                advice=_SIZE_ADVICE,
            )
        self._is_too_large = is_too_large

    def check_size(self) -> Finding | None:
        """A remark if the last sweep could not keep the database within its size."""
        if not self._is_too_large:
            return None
        return Finding(None, "retention", f"the rows exceed {self.settings.size_bytes / 1e6:.0f} MB: {_SIZE_ADVICE}")

    async def _release_pages(self) -> int:
        """Return free pages beyond FREE_SHARE_MAX of the SQLite file to the file system. Returns the number of pages."""
        if not self._database.is_sqlite:
            return 0
        released = 0
        while True:
            now = await self._database.read(inspection.measure_size)
            if now.free <= now.total * FREE_SHARE_MAX:
                return released
            pages = await self._database.write(lambda tx: inspection.release_free_pages(tx, PAGES_PER_STEP))
            if not pages:
                return released
            released += pages
            await asyncio.sleep(PAUSE_S)
