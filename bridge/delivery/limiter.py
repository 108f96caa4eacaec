"""The turnstile: who may be sent to now, how much of it, and when to look again.

1. An endpoint has seats of its own; one that is being probed has one; one that rests or is paused has none. What a
   person asked for one by one (`Lane.AT_ONCE`) waits for none of this.
2. A rate limit is a bucket of tokens, one per delivery, that holds a second's worth.
3. Of every four deliveries that an endpoint is given one is a retry or a replay, as long as there are any; else what
   is new goes first.
4. The last quarter of all seats is for endpoints that have none, so that many slow receivers hold up no quick one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bridge.domain.delivery import Lane
from bridge.store.due import Due

AGAIN_EVERY: Final = 4
RESERVED_SHARE: Final = 4  # one in so many of all seats
REST_S_MIN: Final = 0.001


@dataclass(frozen=True, slots=True)
class Share:
    """What one endpoint gets in this pass: `limit` deliveries, at most so many of each lane, in this order."""

    limit: int
    lanes: tuple[tuple[Lane, int], ...]

    @property
    def asked_for(self) -> Share:
        """Of it what a person asked for one by one: that does not wait while another node probes the endpoint."""
        return Share(self.limit, tuple(each for each in self.lanes if each[0] is Lane.AT_ONCE))


@dataclass(slots=True)
class _EndpointSlots:
    """What one endpoint has in flight and has been given; `tokens` as of `filled_at` (monotonic seconds)."""

    busy: int = 0
    given: int = 0
    rate: float | None = None
    tokens: float = math.inf
    filled_at: float = 0.0

    def fill(self, rate: float | None, monotonic: float) -> None:
        """Let in the tokens of the time that has passed, `rate` per second."""
        passed_s, self.filled_at, self.rate = monotonic - self.filled_at, monotonic, rate
        self.tokens = math.inf if rate is None else min(max(1.0, rate), self.tokens + rate * passed_s)

    def is_forgettable(self, monotonic: float) -> bool:
        """Nothing is in flight and its bucket is full by now: a new gate would be no different."""
        if self.busy or self.rate is None:
            return not self.busy
        return self.tokens + self.rate * (monotonic - self.filled_at) >= max(1.0, self.rate)

    @property
    def token_in_s(self) -> float:
        """Seconds until there is a token."""
        return 0.0 if self.rate is None else max(0.0, (1.0 - self.tokens) / self.rate)


class DeliveryLimiter:
    """Of one deliverer. In memory only: what must outlive a restart, the pace, is the database's."""

    def __init__(self, seats: int, seats_per_endpoint: int) -> None:
        self.seats = seats
        self.seats_per_endpoint = seats_per_endpoint
        self.sharers = 1
        """How many nodes share what an endpoint takes per second; seats are each node's own."""
        self._slots: dict[str, _EndpointSlots] = {}
        self._busy = 0
        self._last = ""
        self._is_looking = False
        self._left: list[str] = []

    @property
    def free(self) -> int:
        """Seats that nobody has."""
        return self.seats - self._busy

    def enter(self, endpoint_id: str) -> None:
        """A delivery of this endpoint takes a seat and a token."""
        slots = self._slots[endpoint_id]
        slots.busy += 1
        slots.given += 1
        slots.tokens -= 1
        self._busy += 1

    def leave(self, endpoint_id: str) -> None:
        """Its POST has ended."""
        if self._is_looking:
            self._left.append(endpoint_id)
            return
        self._slots[endpoint_id].busy -= 1
        self._busy -= 1

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around reading what is due and sharing seats: a seat that is left meanwhile is free only afterwards.

        Else it could be given away by what was read before its POST ended, and with it a pause that it brought.
        """
        self._is_looking = True
        try:
            yield
        finally:
            self._is_looking = False
            for endpoint_id in self._left:
                self.leave(endpoint_id)
            self._left.clear()

    def share(self, due: Mapping[str, Due], *, now: datetime, monotonic: float) -> dict[str, Share]:
        """Seats for each endpoint in turn, going on behind the one that was served last."""
        self._look_after_gates(due, monotonic)
        wanting = {one.endpoint_id: room for one in due.values() if one.at <= now and (room := self._room(one, now))}
        in_turn = sorted(wanting, key=lambda endpoint_id: (endpoint_id <= self._last, endpoint_id))
        free = self.free
        each = max(1, free // max(1, len(in_turn)))
        shares: dict[str, Share] = {}
        for endpoint_id in in_turn:
            limit = min(wanting[endpoint_id], each, self._open_to(endpoint_id, free))
            if limit > 0:
                shares[endpoint_id] = Share(limit, self._lanes(due[endpoint_id], limit, now))
                self._last = endpoint_id
                free -= limit
        return shares

    def rest_s(self, due: Mapping[str, Due], *, now: datetime) -> float:
        """Seconds until something may go that may not go now; inf where only a POST that ends can change that.

        What is due later counts although there may be no seat then: a POST that ends need not tell of itself.
        """
        return min((self._ready_in_s(one, now) for one in due.values()), default=math.inf)

    def _look_after_gates(self, due: Mapping[str, Due], monotonic: float) -> None:
        for endpoint_id, one in due.items():
            rate = None if one.rate_limit is None else one.rate_limit / self.sharers
            self._slots.setdefault(endpoint_id, _EndpointSlots()).fill(rate, monotonic)
        for endpoint_id in [e for e, g in self._slots.items() if e not in due and g.is_forgettable(monotonic)]:
            del self._slots[endpoint_id]

    def _room(self, one: Due, now: datetime) -> int:
        """How much the endpoint may be given, whatever seats there are in all."""
        ordinary = self._ordinary_room(one, now)
        if ordinary > 0 or not _is_due(one, Lane.AT_ONCE, now):
            return ordinary
        return self.seats_per_endpoint - self._slots[one.endpoint_id].busy

    def _ordinary_room(self, one: Due, now: datetime) -> int:
        slots, opens_at = self._slots[one.endpoint_id], one.backoff.opens_at
        if opens_at is not None and opens_at > now:
            return 0
        seats = 1 if one.backoff.is_probed else self.seats_per_endpoint
        return max(0, int(min(seats - slots.busy, slots.tokens)))

    def _open_to(self, endpoint_id: str, free: int) -> int:
        """How many of the free seats this endpoint may take."""
        unreserved = max(0, free - self.seats // RESERVED_SHARE)
        return unreserved if self._slots[endpoint_id].busy else max(unreserved, min(1, free))

    def _lanes(self, one: Due, limit: int, now: datetime) -> tuple[tuple[Lane, int], ...]:
        if self._ordinary_room(one, now) == 0:
            return ((Lane.AT_ONCE, limit),)
        given = self._slots[one.endpoint_id].given
        again = (given + limit) // AGAIN_EVERY - given // AGAIN_EVERY
        order = ((Lane.AT_ONCE, limit), (Lane.AGAIN, again), (Lane.FRESH, limit), (Lane.AGAIN, limit))
        return tuple((lane, most) for lane, most in order if most and _is_due(one, lane, now))

    def _ready_in_s(self, one: Due, now: datetime) -> float:
        slots = self._slots[one.endpoint_id]
        asked_at = one.lanes.get(Lane.AT_ONCE)
        asked_s = math.inf if asked_at is None else (asked_at - now).total_seconds()
        waits = [asked_s, self._ordinary_in_s(one, slots, now)]
        return max(REST_S_MIN, min((wait_s for wait_s in waits if wait_s > 0), default=math.inf))

    def _ordinary_in_s(self, one: Due, slots: _EndpointSlots, now: datetime) -> float:
        """Not positive where a seat is all that is missing: a POST that ends rings the bell."""
        at = min((at for lane, at in one.lanes.items() if lane is not Lane.AT_ONCE), default=None)
        if at is None:
            return math.inf
        opens_at = one.backoff.opens_at
        ready_at = at if opens_at is None else max(at, opens_at)
        return max((ready_at - now).total_seconds(), slots.token_in_s)


def _is_due(one: Due, lane: Lane, now: datetime) -> bool:
    at = one.lanes.get(lane)
    return at is not None and at <= now
