"""Chores that run by the calendar, with APScheduler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from bridge.domain.errors import StoreUnavailable

log = structlog.get_logger()
EVERY_MINUTE: Final = "* * * * *"


class Calendar:
    """Chores by cron lines in UTC. A chore never overlaps with itself, never piles up, and is late rather than dropped.

    It decides nothing: what a chore does depends on the database, so that one that is late does the same work later.
    """

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """Start calling the chores."""
        self._scheduler.start()

    def stop(self) -> None:
        """Call no more of them, and cancel the one that runs."""
        self._scheduler.shutdown(wait=False)

    def set(self, name: str, cron: str | None, chore: Callable[[], Awaitable[object]]) -> None:
        """Call `chore` by this cron line instead of the one before; None: never."""
        if cron is not None:
            trigger = CronTrigger.from_crontab(cron, timezone="UTC")
            self._scheduler.add_job(run_chore, trigger, (name, chore), id=name, name=name, replace_existing=True)
        elif self._scheduler.get_job(name):
            self._scheduler.remove_job(name)

    def next_at(self, name: str) -> datetime | None:
        """When a chore is called next."""
        job = self._scheduler.get_job(name)
        at: datetime | None = job and job.next_run_time
        return at

    def reschedule(self) -> None:
        """Find the next time of every chore again, because the wall clock was set."""
        for job in self._scheduler.get_jobs():
            job.reschedule(job.trigger)


async def run_chore(name: str, chore: Callable[[], Awaitable[object]]) -> None:
    """Do it once; what it raises is logged, and its next time comes."""
    try:
        await chore()
    except StoreUnavailable as error:
        log.warning("chore.postponed", chore=name, reason=str(error))
    except Exception:
        log.exception("chore.failed", chore=name)
