"""When a poller asks the database for due runs, and for how many: those that it can look at before long.

Somebody's news (a registration, a poll asked for) is followed at once; without any it asks when the next run is due.
"""

from __future__ import annotations

import math
from typing import Final

from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.limits.fair_limiter import FairRateLimiter
from bridge.polling.returns import Returns
from bridge.polling.run_leases import COMPARE_EVERY_S, Claims
from bridge.polling.schedule import Hand, Watch

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
