"""The recurring chores, driven by APScheduler: deadlines that no poll caught, set clocks; housekeeping is in `retention`.

APScheduler is never a second truth beside the due times in the database: a chore that is late does the
same work later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from bridge.domain import transition
from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.run import Run, RunError, RunStatus
from bridge.polling.poll_results import expired_message
from bridge.store import deliveries, runs
from bridge.store.database import Database
from bridge.store.transaction import Tx

log = structlog.get_logger()
DEADLINE_GRACE_S = 10.0  # a healthy connection has its last look by then
EXPIRE_MAX = 500
CLOCK_JUMP_S = 2.0  # less is NTP at work


def schedule() -> AsyncIOScheduler:
    """A scheduler whose jobs never overlap, never pile up and are never dropped for being late."""
    return AsyncIOScheduler(
        timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )


def every(scheduler: AsyncIOScheduler, seconds: float, chore: Callable[[], Awaitable[object]], name: str) -> None:
    """Do `chore` every so many seconds; a failure is logged and the next time comes."""

    async def do() -> None:
        try:
            await chore()
        except StoreUnavailable as error:
            log.warning("chore.postponed", chore=name, reason=str(error))
        except Exception:  # a chore is a loop of its own
            log.exception("chore.failed", chore=name)

    scheduler.add_job(do, "interval", seconds=seconds, id=name, name=name)


async def expire_overdue(database: Database, forget: Callable[[Run], None]) -> int:
    """Settle as `expired` the runs whose deadline passed while they could not be polled; answers how many."""

    def expire(tx: Tx) -> list[Run]:
        late = runs.list_expired(tx, tx.now - timedelta(seconds=DEADLINE_GRACE_S), EXPIRE_MAX)
        expired = []
        for run in late:
            if not transition.is_expired(run, tx.now):
                continue
            error = RunError(expired_message(run), "deadline")
            decision = transition.settle(run, RunStatus.EXPIRED, error, now=tx.now)
            if decision and runs.record_decision(tx, run, decision, node=None, keep_lease=False):
                expired.append(run)
        return expired

    if not await database.read(lambda tx: runs.list_expired(tx, tx.now - timedelta(seconds=DEADLINE_GRACE_S), 1)):
        return 0
    expired = await database.write(expire)
    for run in expired:
        log.info("run.expired", run_id=run.id, connection=run.connection)
        forget(run)
    return len(expired)


class ClockWatch:
    """Notices when the wall clock is set, by comparing it with the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = self._read()

    def _read(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    def jump_s(self) -> float:
        """Seconds by which the wall clock was set since the last call; 0 while it only drifts."""
        offset_s = self._read()
        jump_s = offset_s - self._offset_s
        self._offset_s = offset_s
        return jump_s if abs(jump_s) >= CLOCK_JUMP_S else 0.0


async def rebase(database: Database, watch: ClockWatch, tell: Callable[[float], None]) -> None:
    """After the wall clock was set: move the due times and beginnings in the database along with it.

    On SQLite only, where every time in the database is this machine's; `tell` hears of the jump in any case.
    """
    jump_s = watch.jump_s()
    if not jump_s:
        return
    log.warning("clock.jumped", seconds=round(jump_s, 3))
    if database.is_sqlite:
        await database.write(lambda tx: _shift(tx, jump_s))
    tell(jump_s)


def _shift(tx: Tx, jump_s: float) -> None:
    runs.shift_times(tx, jump_s)
    deliveries.shift_times(tx, jump_s)
