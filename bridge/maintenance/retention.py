"""The housekeeper: a chore that deletes what is no longer to be kept, by age and by size, a little at a time.

An idle bridge is left in peace: it looks, and writes only where there is something to delete.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from bridge.domain.clock import Clock
from bridge.runtime.metrics import Metrics
from bridge.store import inspection, retention
from bridge.store.database import Database
from bridge.store.retention import DeletionPlan
from bridge.store.transaction import Tx

log = structlog.get_logger()
EVERY_S: Final = 60.0
PAUSE_S: Final = 0.05  # between transactions; others take their turn
FULL_UNTIL: Final = 0.9  # of the size, to which a database that outgrew it is brought down
FREE_SHARE_MAX: Final = 0.1  # of the file; more is given back to the disk, less is left for new rows
PAGES_PER_STEP: Final = 200
LOOKS_POSTGRESQL: Final = 10  # transactions between two estimates of the size


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is settled is kept, and how large the database may become (bytes)."""

    keep_s: float = 30 * 86400.0
    size_bytes: int = 10**9


class Housekeeper:
    """Sweeps when it is called; the daemon calls it every EVERY_S."""

    def __init__(self, *, database: Database, clock: Clock, metrics: Metrics, settings: Retention) -> None:
        self.settings = settings
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._is_too_large = False

    async def sweep(self) -> Counter[str]:
        """Everything there is to do now; rows deleted, by table."""
        before = self._clock.now() - timedelta(seconds=self.settings.keep_s)
        swept = Counter[str]()
        for plan in (retention.plan_settled, retention.plan_leftovers):
            swept += await self._sweep_all(lambda tx, plan=plan: plan(tx, before))  # type: ignore[misc]
        swept += await self._sweep_to_size()
        pages = await self._give_back()
        self._metrics.retention_last_run.set(self._clock.now().timestamp())
        if swept or pages:
            log.info(
                "retention.swept", **{f"{table}_deleted": count for table, count in swept.items()}, pages_released=pages
            )
        return swept

    async def _sweep_all(
        self, plan: Callable[[Tx], DeletionPlan], *, batches_max: float = float("inf")
    ) -> Counter[str]:
        """Plan and delete until nothing is left of it, at most so many batches."""
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
        """Delete the oldest of what is settled, however young, until the rows take 90 % of the size."""
        limit, swept = self.settings.size_bytes, Counter[str]()
        used = await self._used()
        goal = limit if used <= limit else limit * FULL_UNTIL
        batches = 1 if self._database.is_sqlite else LOOKS_POSTGRESQL
        while used > goal:
            rows = await self._sweep_all(lambda tx: retention.plan_settled(tx, tx.now), batches_max=batches)
            if not rows:
                break
            swept += rows
            used = await self._used()
        self._tell_size(used)
        return swept

    async def _used(self) -> int:
        return await self._database.read(lambda tx: inspection.measure_used_bytes(tx, self.settings.size_bytes))

    def _tell_size(self, used: int) -> None:
        is_too_large = used > self.settings.size_bytes
        if is_too_large and not self._is_too_large:
            log.warning(
                "retention.too_large",
                used_bytes=used,
                size_bytes=self.settings.size_bytes,
                advice="all that is left is being watched or still to be delivered; raise [retention] size, or see "
                "which endpoint takes nothing",
            )
        self._is_too_large = is_too_large

    async def _give_back(self) -> int:
        """Pages of the SQLite file that hold nothing, beyond a tenth of it."""
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
