"""What one poller holds of the database's runs: take, give back, and now and then compare the two sides.

With several nodes each takes a fair part of what is due at a time, and what a poller holds in memory can become wrong:
a run was deleted or settled at another node, or a commit happened whose answer got lost with the connection.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.limits.fair_limiter import FairRateLimiter
from bridge.domain.run import Run
from bridge.polling.schedule import Hand, Watch
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


GATHER_S: Final = 1.0
WISHES_GATHER_S: Final = 0.1  # what is not written yet is lost with the process
STORE_RETRY_S: Final = 5.0


class Returns:
    """Of one poller. Times are readings of the monotonic clock."""

    def __init__(self, claims: Claims, hand: Hand) -> None:
        self._claims = claims
        self._hand = hand
        self._leaving: dict[str, Watch] = {}
        self._wishes: dict[str, Watch] = {}
        self._due = math.inf

    @property
    def run_ids(self) -> Collection[str]:
        """The runs that are on their way back and still ours."""
        return self._leaving.keys()

    def get(self, run_id: str) -> Watch | None:
        """The watch of a run that is on its way back."""
        return self._leaving.get(run_id)

    def forget(self, run_id: str) -> None:
        """Nothing is to be written of this run."""
        self._leaving.pop(run_id, None)
        self._wishes.pop(run_id, None)

    def let_go(self, watch: Watch, due: float) -> None:
        """Out of hand, and back to the database at `due` at the latest."""
        self._hand.drop(watch.run.id)
        self._wishes.pop(watch.run.id, None)
        self._leaving[watch.run.id] = watch
        self._due = min(self._due, due)

    def let_all_go(self, due: float) -> None:
        """Every run in hand that is not being looked at."""
        for watch in self._hand.all():
            if not watch.is_in_flight:
                self.let_go(watch, due)

    def note_wish(self, watch: Watch, now: float) -> None:
        """The run stays in hand; what its provider wished is to outlive this process."""
        if watch.not_before > now + GATHER_S:
            self._wishes[watch.run.id] = watch
            self._due = min(self._due, now + WISHES_GATHER_S)

    def rest_s(self, now: float) -> float:
        """Seconds until there is something to write."""
        return self._due - now

    async def flush(self, now: float) -> float:
        """Write what is due to be by `now`; when the first of the runs given back is due. StoreUnavailable: later, then."""
        if now < self._due:
            return math.inf
        leaving, wishes, self._leaving, self._wishes, self._due = self._leaving, self._wishes, {}, {}, math.inf
        held = [watch for watch in wishes.values() if self._hand.get(watch.run.id) is watch]
        try:
            await self._claims.put_back(
                [watch.record() for watch in leaving.values()], wishes=[watch.record() for watch in held]
            )
        except BaseException:  # also a loop that is ended in the middle of it
            self._leaving, self._wishes = leaving | self._leaving, wishes | self._wishes
            self._due = now + STORE_RETRY_S
            raise
        return min((watch.due for watch in leaving.values()), default=math.inf)


HORIZON_S: Final = 15.0  # runs due within this are claimed; those due later stay in the database
HAND_MAX: Final = 20_000
CLAIM_MAX: Final = 1_000
CLAIM_GAP_S: Final = 0.008  # from one claim to the next: whoever registers much has it claimed together
PLENTY: Final = 5_000  # in hand, some of them overdue: after an outage the others can wait where they are …
PLENTY_GAP_S: Final = 1.0  # … so long, from one claim to the next
CLAIM_AHEAD_S: Final = 0.25  # before the gate opens: what cannot be asked for anyway stays in the database until then
UNHEARD_S: Final = 5.0  # where there may be other nodes, their claims lapse or come back without a bell ringing here
ALONE_S: Final = 3600.0


class Claiming:
    """Of one poller. Times are readings of the monotonic clock."""

    def __init__(
        self, claims: Claims, hand: Hand, returns: Returns, limiter: FairRateLimiter, *, clock: Clock, is_alone: bool
    ) -> None:
        self._claims = claims
        self._hand = hand
        self._returns = returns
        self._limiter = limiter
        self._clock = clock
        self._is_alone = is_alone
        self._has_news = True  # a run became due since the database was last asked
        self._due = 0.0
        self._asked_at = -math.inf
        self._compare_due = 0.0

    def expect(self) -> None:
        """A run became due: ask at once."""
        self._has_news = True

    @property
    def is_held_up(self) -> bool:
        """Whether a run is due in the database that waits there for the gate."""
        return self._has_news

    def expect_at(self, due: float) -> None:
        """A run becomes due then."""
        self._due = min(self._due, due)

    def doubt(self) -> None:
        """Something may have been committed whose answer got lost: compare with the database at once."""
        self._compare_due = 0.0

    def rest_s(self, now: float) -> float:
        """Seconds until the database is to be asked; infinity while the hand is full, which a look that ends changes."""
        if len(self._hand) >= HAND_MAX:
            return math.inf
        gap_s = PLENTY_GAP_S if self._has_plenty(now) else CLAIM_GAP_S
        wanted_at = max(self._asked_at + gap_s, -math.inf if self._has_news else self._due)
        if self._limiter.is_shut:  # what came in hand meanwhile is for others at once, not when a pause of our own ends
            return wanted_at - now
        return max(wanted_at, self._limiter.rate_limit.opens_at - CLAIM_AHEAD_S) - now

    def _has_plenty(self, now: float) -> bool:
        """Whether more waits in hand already than is put in order of urgency at once."""
        first_due = self._hand.next_due() if len(self._hand) >= PLENTY else None
        return first_due is not None and first_due <= now

    async def claim(self) -> None:
        """Take in hand what is due, if it is time; where the limits leave nothing for this node, give all back."""
        now = self._clock.monotonic()
        if self.rest_s(now) > 0:
            return
        is_told, self._asked_at = self._has_news, now
        self._has_news = False  # before asking: what is announced meanwhile counts for the next pass
        if self._limiter.is_shut:
            self._due = now + UNHEARD_S
            self._returns.let_all_go(now)
            return
        try:
            await self._take(now, look_first=not is_told)
        except StoreUnavailable:
            self._has_news = True
            raise

    async def _take(self, now: float, *, look_first: bool) -> None:
        limit = min(CLAIM_MAX, HAND_MAX - len(self._hand))
        taken = await self._claims.take(
            self._clock.now(), horizon_s=HORIZON_S, limit=limit, sharers=self._limiter.sharers, look_first=look_first
        )
        for run in taken.runs:
            due = now + ((run.next_poll_at or taken.at) - taken.at).total_seconds()
            self._hand.hold(Watch(run, due, now=taken.at, monotonic=now))
        wait_s = math.inf if taken.next_due_at is None else (taken.next_due_at - taken.at).total_seconds()
        rest_max_s = ALONE_S if self._is_alone else UNHEARD_S
        self._due = now + max(0.0 if len(taken.runs) == limit else 0.05, min(wait_s, rest_max_s))

    async def compare(self, now: float) -> set[str]:
        """Where there may be other nodes: the ids of runs in hand or on their way back that are not ours any more."""
        if self._is_alone or now < self._compare_due:
            return set()
        self._compare_due = now + COMPARE_EVERY_S
        return await self._claims.compare({watch.run.id for watch in self._hand.all()} | {*self._returns.run_ids})
