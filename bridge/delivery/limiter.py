"""The delivery limiter: how many deliveries each endpoint may start now, and when to check again.

1. Each endpoint has slots of its own; a probed endpoint has one; an endpoint that rests or is paused has none. A
   delivery that a person requested (`Lane.AT_ONCE`) waits for none of this.
2. A rate limit is a token bucket, one token per delivery, that holds one second's worth.
3. One in four deliveries that an endpoint is given is a retry or a replay while there are any; otherwise new ones
   go first.
4. The last quarter of all slots is for endpoints that hold none, so slow receivers cannot hold up a quick one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bridge.domain.delivery import Lane
from bridge.store.deliveries import DueEndpoint

AGAIN_EVERY: Final = 4
RESERVED_SHARE: Final = 4  # a quarter of all slots
REST_S_MIN: Final = 0.001


@dataclass(frozen=True, slots=True)
class Share:
    """What one endpoint may start in this pass: up to `limit` deliveries, up to so many of each lane, in this order."""

    limit: int
    lanes: tuple[tuple[Lane, int], ...]

    @property
    def at_once(self) -> Share:
        """The part that a person requested, which goes out even while another node probes the endpoint."""
        return Share(self.limit, tuple(each for each in self.lanes if each[0] is Lane.AT_ONCE))


@dataclass(slots=True)
class _EndpointSlots:
    """Slots and tokens of one endpoint; `tokens` as of `filled_at` (monotonic seconds), `given` counts deliveries."""

    busy: int = 0
    given: int = 0
    rate: float | None = None
    tokens: float = math.inf
    filled_at: float = 0.0

    def fill(self, rate: float | None, monotonic: float) -> None:
        """Add `rate` tokens for each second since the last fill."""
        passed_s, self.filled_at, self.rate = monotonic - self.filled_at, monotonic, rate
        self.tokens = math.inf if rate is None else min(max(1.0, rate), self.tokens + rate * passed_s)

    def is_idle(self, monotonic: float) -> bool:
        """Nothing is in flight and the bucket is full: indistinguishable from a new one."""
        if self.busy or self.rate is None:
            return not self.busy
        return self.tokens + self.rate * (monotonic - self.filled_at) >= max(1.0, self.rate)

    @property
    def token_in_s(self) -> float:
        """Seconds until there is a token."""
        return 0.0 if self.rate is None else max(0.0, (1.0 - self.tokens) / self.rate)


class DeliveryLimiter:
    """The slots of one deliverer, in memory. What must survive a restart, the back-off, is in the database."""

    def __init__(self, slots: int, slots_per_endpoint: int) -> None:
        self.slots = slots
        self.slots_per_endpoint = slots_per_endpoint
        self.nodes = 1
        """How many nodes share each endpoint's rate limit; slots are each node's own."""
        self._endpoints: dict[str, _EndpointSlots] = {}
        self._busy = 0
        self._last = ""
        self._is_snapshot_open = False
        self._released: list[str] = []

    @property
    def busy(self) -> int:
        """Slots that are taken; one released during a snapshot counts as free here."""
        return self._busy - len(self._released)

    @property
    def free(self) -> int:
        """Slots that `share` may give away."""
        return self.slots - self._busy

    def take(self, endpoint_id: str) -> None:
        """A delivery to this endpoint takes a slot and a token."""
        endpoint = self._endpoints[endpoint_id]
        endpoint.busy += 1
        endpoint.given += 1
        endpoint.tokens -= 1
        self._busy += 1

    def release(self, endpoint_id: str) -> None:
        """Free a slot of this endpoint."""
        if self._is_snapshot_open:
            self._released.append(endpoint_id)
            return
        self._endpoints[endpoint_id].busy -= 1
        self._busy -= 1

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Surrounds the read of what is due and `share`; a slot released within becomes free at its end.

        Such a slot must not be reused at once: the snapshot predates the back-off that its POST may have set.
        """
        self._is_snapshot_open = True
        try:
            yield
        finally:
            self._is_snapshot_open = False
            released, self._released = self._released, []
            for endpoint_id in released:
                self.release(endpoint_id)

    def share(self, due: Mapping[str, DueEndpoint], *, now: datetime, monotonic: float) -> dict[str, Share]:
        """Divide the free slots among the endpoints in turn, continuing after the one that was served last."""
        self._refill(due, monotonic)
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

    def rest_s(self, due: Mapping[str, DueEndpoint], *, now: datetime) -> float:
        """Seconds until something else may start; inf if that takes the end of a POST.

        What is due later counts even if no slot may be free then: the end of a POST need not ring the bell.
        """
        return min((self._ready_in_s(one, now) for one in due.values()), default=math.inf)

    def _refill(self, due: Mapping[str, DueEndpoint], monotonic: float) -> None:
        for endpoint_id, one in due.items():
            rate = None if one.rate_limit is None else one.rate_limit / self.nodes
            self._endpoints.setdefault(endpoint_id, _EndpointSlots()).fill(rate, monotonic)
        for endpoint_id in [e for e, slots in self._endpoints.items() if e not in due and slots.is_idle(monotonic)]:
            del self._endpoints[endpoint_id]

    def _room(self, one: DueEndpoint, now: datetime) -> int:
        """How many deliveries the endpoint may start, regardless of the slots in all."""
        ordinary = self._ordinary_room(one, now)
        if ordinary > 0 or not _is_due(one, Lane.AT_ONCE, now):
            return ordinary
        return self.slots_per_endpoint - self._endpoints[one.endpoint_id].busy

    def _ordinary_room(self, one: DueEndpoint, now: datetime) -> int:
        endpoint, opens_at = self._endpoints[one.endpoint_id], one.backoff.opens_at
        if opens_at is not None and opens_at > now:
            return 0
        slots = 1 if one.backoff.is_probed else self.slots_per_endpoint
        return max(0, int(min(slots - endpoint.busy, endpoint.tokens)))

    def _open_to(self, endpoint_id: str, free: int) -> int:
        """How many of the free slots this endpoint may take."""
        unreserved = max(0, free - self.slots // RESERVED_SHARE)
        return unreserved if self._endpoints[endpoint_id].busy else max(unreserved, min(1, free))

    def _lanes(self, one: DueEndpoint, limit: int, now: datetime) -> tuple[tuple[Lane, int], ...]:
        if self._ordinary_room(one, now) == 0:
            return ((Lane.AT_ONCE, limit),)
        given = self._endpoints[one.endpoint_id].given
        again = (given + limit) // AGAIN_EVERY - given // AGAIN_EVERY
        order = ((Lane.AT_ONCE, limit), (Lane.AGAIN, again), (Lane.FRESH, limit), (Lane.AGAIN, limit))
        return tuple((lane, most) for lane, most in order if most and _is_due(one, lane, now))

    def _ready_in_s(self, one: DueEndpoint, now: datetime) -> float:
        at_once = one.lanes.get(Lane.AT_ONCE)
        at_once_s = math.inf if at_once is None else (at_once - now).total_seconds()
        waits = [at_once_s, self._ordinary_in_s(one, now)]
        return max(REST_S_MIN, min((wait_s for wait_s in waits if wait_s > 0), default=math.inf))

    def _ordinary_in_s(self, one: DueEndpoint, now: datetime) -> float:
        """Not positive if only a slot is missing: the end of a POST rings the bell."""
        at = min((at for lane, at in one.lanes.items() if lane is not Lane.AT_ONCE), default=None)
        if at is None:
            return math.inf
        opens_at = one.backoff.opens_at
        ready_at = at if opens_at is None else max(at, opens_at)
        return max((ready_at - now).total_seconds(), self._endpoints[one.endpoint_id].token_in_s)


def _is_due(one: DueEndpoint, lane: Lane, now: datetime) -> bool:
    at = one.lanes.get(lane)
    return at is not None and at <= now
