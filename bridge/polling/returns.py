"""What one poller gives back to the database, gathered for a moment: runs that are due in a while, and wishes.

A wish is a pause that the provider asked for on the answer about a running run. The run stays in hand, but if this
process dies, whoever takes the run over must find the wish: it is written down where it outlasts the next flush.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from bridge.polling.run_leases import Claims
from bridge.polling.schedule import Hand, Watch

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
