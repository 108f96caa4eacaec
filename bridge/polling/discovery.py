"""Discovery: registers the runs that a list shows and that are not watched yet.

The first list registers no settled runs and sets the watermark. Later lists register what began since, settled or not,
with an overlap for runs that a list shows late. The watermark is kept in the database, in the provider's own times,
which are compared with each other only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from bridge.domain.connection import Connection
from bridge.domain.ids import comparable_run_id, new_id
from bridge.domain.observation import ListedRun, Observation, RunPage
from bridge.domain.timestamps import parse_instant
from bridge.domain.transition import has_started_again
from bridge.store import learned_state, runs
from bridge.store.database import Database
from bridge.store.learned_state import Watermark
from bridge.store.runs import NewRun
from bridge.store.transaction import Tx

log = structlog.get_logger()
OVERLAP: Final = timedelta(minutes=10)  # how much later than its successors a list may show a run
SEEN_MAX: Final = 5_000  # ids kept, so that a run that was removed by hand is not registered again
FIRST_PER_S: Final = 1 / 60  # assumed rate at which runs begin, until it is learned
MEMORY_S: Final = 600.0  # how long the learned rate remembers
ASK_AT_LEAST_S: Final = 60.0  # the longest gap between lists, however quiet the account
TAGS: Final = ("discovered",)


@dataclass(slots=True)
class _Listing:
    """The yield of one list so far."""

    newest_at: datetime | None = None
    found: int = 0
    is_complete: bool = False


class Discovery:
    """Discovers the runs of one connection. `per_s`: unregistered runs that begin every second, as learned."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self.per_s = FIRST_PER_S
        self._connection = connection
        self._database = database
        self._mark: Watermark | None = None
        self._is_loaded = False
        self._seen: OrderedDict[tuple[str, str | None], None] = OrderedDict()  # with their generations
        self._listing = _Listing()

    async def begin(self) -> None:
        """Prepare for the first page of a list. Raises StoreUnavailable."""
        if not self._is_loaded:
            self._mark = await self._database.read(lambda tx: learned_state.get_watermark(tx, self._connection.name))
            self._is_loaded = True
        self._listing = _Listing()

    def reaches_back_to(self, otherwise: datetime) -> datetime:
        """The earliest time that the list must cover: `otherwise`, or earlier."""
        newest_at = self._mark.newest_at if self._mark else None
        return min(otherwise, newest_at - OVERLAP) if newest_at else otherwise

    async def take_in(self, page: RunPage) -> int:
        """Register what is new on this page, in one write; returns how many. Raises StoreUnavailable."""
        listing = self._listing
        began = [at for run in page.runs if (at := _began_at(run.observation)) is not None]
        listing.newest_at = max([*began, *([listing.newest_at] if listing.newest_at else [])], default=None)
        answered_at = parse_instant(page.answered_at) if page.answered_at else None
        listing.is_complete = page.next_cursor is None or self._meets_what_was_seen(page, answered_at)
        wanted = [run for run in page.runs if self._is_wanted(run, answered_at)]
        again = [run for run in page.runs if _generation(run) is not None and _key(run) not in self._seen]
        added = await self._database.write(lambda tx: self._register(tx, wanted, again)) if wanted or again else 0
        for run in page.runs:
            if run.observation is not None:
                self._seen[_key(run)] = None
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        listing.found += added
        return added

    @property
    def wants_more(self) -> bool:
        """Whether the next page may show runs that are new."""
        return not self._listing.is_complete

    async def end(self, since_s: float) -> None:
        """Finish a list that was sent `since_s` seconds after the one before. Raises StoreUnavailable."""
        listing, mark = self._listing, self._mark
        if math.isfinite(since_s) and since_s > 0:
            self.per_s += -math.expm1(-since_s / MEMORY_S) * (listing.found / since_s - self.per_s)
        if not listing.is_complete and mark is not None:
            log.warning(
                "discovery.overrun",
                connection=self._connection.name,
                advice="more runs began since the last list than its pages show; the oldest of them were not found",
            )
        newest_at = max((at for at in (listing.newest_at, mark and mark.newest_at) if at), default=None)
        now = Watermark(newest_at if mark is None else mark.first_at, newest_at)
        if now != mark:
            await self._database.write(lambda tx: learned_state.save_watermark(tx, self._connection.name, now))
            self._mark = now

    def _meets_what_was_seen(self, page: RunPage, answered_at: datetime | None) -> bool:
        """Whether the runs on the pages behind this one were seen before."""
        last = page.runs[-1] if page.runs else None
        if not page.is_newest_first:
            return False
        if last is None or _key(last) in self._seen:
            return True
        return self._is_old(_began_at(last.observation), answered_at)

    def _is_old(self, began_at: datetime | None, answered_at: datetime | None) -> bool:
        """Whether earlier lists must have shown a run, even if it is in the database no more.

        The overlap holds for what began just now: in a quiet account the newest run may have been deleted weeks ago.
        """
        newest_at = self._mark.newest_at if self._mark else None
        if began_at is None or newest_at is None or began_at > newest_at:
            return False
        return began_at < newest_at - OVERLAP or (answered_at is not None and began_at < answered_at - OVERLAP)

    def _is_wanted(self, run: ListedRun, answered_at: datetime | None) -> bool:
        """Whether to register it, unless it is watched already."""
        seen, names = run.observation, self._connection.discover_workflows
        if seen is None or _key(run) in self._seen or (names and seen.workflow_id not in names):
            return False
        mark, began_at = self._mark, _began_at(seen)
        if mark is None or began_at is None:  # the first list, or an age that is not known
            return not seen.status.is_settled
        if self._is_old(began_at, answered_at):
            return False
        return not seen.status.is_settled or mark.first_at is None or began_at > mark.first_at

    def _register(self, tx: Tx, wanted: list[ListedRun], again: list[ListedRun]) -> int:
        """Watch what is not watched yet, and those of `again` that were started again since they ended."""
        connection = self._connection
        ids = {spelling for run in (*wanted, *again) for spelling in _spellings(run.provider_run_id)}
        known = runs.find_watched(tx, connection.name, list(ids))
        for run in again:
            before = next((known[one] for one in _spellings(run.provider_run_id) if one in known), None)
            if before and run.observation and before.settled and has_started_again(before, run.observation):
                runs.watch_again(tx, before, connection.cadence.deadline_s)
        new = [
            NewRun(
                id=new_id("run"),
                connection=connection.name,
                provider=connection.provider,
                provider_run_id=run.provider_run_id,
                workflow_id=run.observation.workflow_id if run.observation else None,
                metadata={},
                tags=TAGS,
                cadence=None,
                deadline_at=tx.now + timedelta(seconds=connection.cadence.deadline_s),
                deadline_is_fixed=False,
            )
            for run in {run.provider_run_id: run for run in wanted}.values()
            if known.keys().isdisjoint(_spellings(run.provider_run_id))
        ]
        return len(runs.insert_runs(tx, new))


def _generation(run: ListedRun) -> str | None:
    return run.observation.generation if run.observation else None


def _key(run: ListedRun) -> tuple[str, str | None]:
    return run.provider_run_id, _generation(run)


def _began_at(seen: Observation | None) -> datetime | None:
    began_at = (seen.created_at or seen.started_at) if seen else None
    return parse_instant(began_at) if began_at else None


def _spellings(provider_run_id: str) -> tuple[str, str]:
    return provider_run_id, comparable_run_id(provider_run_id)
