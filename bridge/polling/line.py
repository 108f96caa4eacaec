"""The line of one poller's due runs before the gate: the most urgent goes next, in turn with other connections.

Several connections of one credential share a gate; each has a line of its own there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from bridge.domain.clock import Clock
from bridge.domain.limits.fair_limiter import Candidate
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.planner import Planner
from bridge.polling.schedule import Hand, Watch

RANKED_MAX: Final = 2_000  # due runs that are put in order of urgency at once; 10 ms
RANK_EVERY_S: Final = 0.25
RANK_SHARE: Final = 0.02  # of the time, at most, that putting them in order takes
TURN_REST_S: Final = 0.05  # while another connection of the same credential has its turn


class Line:
    """Who of those in hand goes next. Times are readings of the monotonic clock."""

    def __init__(self, client: ConnectionClient, hand: Hand, planner: Planner, *, clock: Clock) -> None:
        self._client = client
        self._name, self._price_s = client.connection.name, client.connection.cadence.price_s
        self._hand = hand
        self._planner = planner
        self._clock = clock
        self._ranked: list[Watch] = []  # due, the most urgent last
        self._rank_due = -math.inf
        self._is_scarce = False  # some of them had to wait for the gate
        self.turn_due = 0.0
        """When it may be the turn of this connection, after another one's."""

    def __len__(self) -> int:
        return len(self._ranked)

    def next(self, now: float) -> Watch | None:
        """The most urgent that may be looked at, out of the line if it has its turn; else None."""
        watch = self._most_urgent(now)
        return watch if watch is not None and self._has_turn(watch, now) else None

    def _most_urgent(self, now: float) -> Watch | None:
        if not self._ranked or now >= self._rank_due:
            due = self._hand.take_due(now, RANKED_MAX - len(self._ranked))
            waiting = [watch for watch in self._ranked if self._is_takeable(watch)]
            if len(due) + len(waiting) > 1:
                self._planner.refit(self._hand.some(RANKED_MAX))
            self._ranked = self._planner.rank(waiting + due, now)
            took_s = self._clock.monotonic() - now
            self._rank_due = now + max(RANK_EVERY_S, took_s / RANK_SHARE)
        while self._ranked:
            watch = self._ranked.pop()
            if self._is_takeable(watch):
                return watch
        return None

    def _is_takeable(self, watch: Watch) -> bool:
        return self._hand.get(watch.run.id) is watch and not watch.is_in_flight and not watch.is_scheduled

    def _has_turn(self, watch: Watch, now: float) -> bool:
        """Whether it goes next, not what another connection of this credential waits with; else it waits again."""
        field = [self._candidate(each) for each in (watch, *self._ranked[-1:])]
        if self._client.limiter.admit(field, now=now, is_scarce=self._is_scarce):
            return True
        self._ranked.append(watch)
        self.turn_due = now + TURN_REST_S
        return False

    def _candidate(self, watch: Watch | None) -> Candidate:
        worth_s = self._price_s if watch is None else max(watch.worth_s, self._price_s)
        return Candidate(watch and watch.run.id, worth_s, self._price_s, self._name)

    def stand(self, call: Callable[[], None], *, waits: bool) -> None:
        """At the end of a pass: `call` when the gate may open for what `waits`, here or behind; else nobody stands."""
        self._is_scarce = bool(self._ranked)
        if waits:
            self._client.limiter.call_when_open(self._candidate(self._ranked[-1] if self._ranked else None), call)
        else:
            self._client.limiter.forget(self._name)
