"""What one poller holds of the database's runs: take, give back, and now and then compare the two sides.

With several nodes each takes a fair part of what is due at a time, and what a poller holds in memory can become wrong:
a run was deleted or settled at another node, or a commit happened whose answer got lost with the connection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.run import Run
from bridge.store import runs
from bridge.store.database import Database
from bridge.store.runs import PollRecord
from bridge.store.transaction import Tx

SOON_S: Final = 1.0  # only for a run that is due sooner a writing transaction is begun
COMPARE_EVERY_S: Final = 60.0  # and at once after the database was away


@dataclass(frozen=True, slots=True)
class Taken:
    """Runs that were claimed at the instant `at`, and when the next one is due that nobody holds."""

    runs: Sequence[Run]
    next_due_at: datetime | None
    at: datetime


class Claims:
    """Of one connection and one node."""

    def __init__(self, database: Database, node: str, connection: str) -> None:
        self._database = database
        self._node = node
        self._connection = connection

    async def take(self, now: datetime, *, horizon_s: float, limit: int, sharers: int, look_first: bool) -> Taken:
        """Claim what is due within `horizon_s`, of `sharers` nodes a fair part.

        `look_first`: to write nothing if nothing is due soon. Where something was announced it would only be one
        more transaction.
        """

        def claim(tx: Tx) -> Taken:
            until = tx.now + timedelta(seconds=horizon_s)
            found = runs.claim_due(
                tx, node=self._node, connection=self._connection, until=until, limit=limit, sharers=sharers
            )
            return Taken(found, runs.next_due_at(tx, self._connection), tx.now)

        if look_first:
            due_at = await self._database.read(lambda tx: runs.next_due_at(tx, self._connection))
            if due_at is None or due_at > now + timedelta(seconds=SOON_S):
                return Taken((), due_at, now)
        return await self._database.write(claim)

    async def put_back(self, records: Sequence[PollRecord], *, wishes: Sequence[PollRecord] = ()) -> None:
        """Give up claims, with what the polls counted; `wishes` are of runs that stay ours."""

        def write(tx: Tx) -> None:
            runs.put_back(tx, node=self._node, records=records)
            runs.put_back(tx, node=self._node, records=wishes, keep=True)

        if records or wishes:
            await self._database.write(write)

    async def compare(self, held: Collection[str]) -> set[str]:
        """Free what is claimed for this node but not among `held`; answers what is held without a claim."""
        claimed = await self._database.read(lambda tx: runs.list_held(tx, node=self._node, connection=self._connection))
        astray = sorted(claimed.difference(held))
        if astray:
            await self._database.write(lambda tx: runs.let_go(tx, node=self._node, run_ids=astray))
        return set(held) - claimed
