"""The delivery limiter: how many deliveries of each endpoint may be claimed now, and which POST may begin.

1. A slot is held while a POST is open. Each endpoint has slots of its own, and may have some deliveries claimed ahead,
   which wait here for a slot: as many as its receiver accepts within `AHEAD_S`, and of new ones twice as many, because
   what finds no room is written as due and has to be claimed. A probed endpoint has one slot; an
   endpoint that rests or is paused has none. A delivery that a person requested (`Lane.AT_ONCE`) waits for none of
   this.
2. A rate limit is a token bucket, one token per delivery, that holds one second's worth.
3. One in four deliveries that an endpoint is given is a retry or a replay while there are any; otherwise new ones
   go first.
4. The last quarter of all slots is for endpoints that hold none, so slow receivers cannot hold up a quick one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

from bridge.domain.delivery import Lane
from bridge.store.deliveries import DueEndpoint

Item = TypeVar("Item")
RESERVED_SHARE: Final = 4  # a quarter of all slots
AHEAD_S: Final = 0.25
AHEAD_MAX: Final = 128  # of one endpoint
AHEAD_OF_ALL: Final = 512
NEW_AHEAD: Final = 2  # times as many new ones may wait
PACES_MAX: Final = 100
_SMOOTHING: Final = 0.2


@dataclass(frozen=True, slots=True)
class Held:
    """The load of one endpoint: open POSTs, deliveries that wait for a slot, and how many may wait."""

    busy: int = 0
    waiting: int = 0
    ahead: int = 0

    @property
    def claimed(self) -> int:
        """Deliveries whose POST is open or is to begin."""
        return self.busy + self.waiting

    @property
    def slots(self) -> int:
        """Slots that are taken, or that a waiting delivery needs because it is not claimed ahead."""
        return max(self.busy, self.claimed - self.ahead)


NOTHING: Final = Held()


@dataclass(slots=True)
class _Pace:
    """How quick a receiver is: deliveries since its last failure, and the seconds that a POST takes."""

    streak: int = 0
    post_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Queue(Generic[Item]):
    """One endpoint; `failing` counts failures that are not recorded yet."""

    pace: _Pace
    waiting: deque[Item] = field(default_factory=deque)
    busy: int = 0
    failing: int = 0


class DeliverySlots(Generic[Item]):
    """The slots of one deliverer, and what waits for them."""

    def __init__(self, total: int, per_endpoint: int) -> None:
        self.total = total
        self.per_endpoint = per_endpoint
        self.busy = 0
        self.waiting = 0
        """Claimed deliveries that wait for a slot."""
        self._queues: dict[str, _Queue[Item]] = {}
        """Endpoints with an open POST or a waiting delivery; the one that was served last is at the end."""
        self._paces: dict[str, _Pace] = {}
        """The endpoints that were idle last, the longest idle first."""

    def add(self, endpoint_id: str, item: Item, *, goes_first: bool = False) -> None:
        """Let a claimed delivery wait for a slot."""
        if (queue := self._queues.get(endpoint_id)) is None:
            queue = self._queues[endpoint_id] = _Queue(self._paces.pop(endpoint_id, _Pace()))
        self.waiting += 1
        if goes_first:
            queue.waiting.appendleft(item)
        else:
            queue.waiting.append(item)

    def start_next(self) -> Item | None:
        """Take a slot for the delivery whose turn it is; None if none may begin. Endpoints take turns."""
        for endpoint_id, queue in self._queues.items():
            if queue.waiting and not queue.failing and queue.busy < self.per_endpoint and self._is_open(queue):
                item = queue.waiting.popleft()
                self.waiting -= 1
                queue.busy += 1
                self.busy += 1
                self._queues[endpoint_id] = self._queues.pop(endpoint_id)
                return item
        return None

    def release(self, endpoint_id: str) -> None:
        """Release the slot of a POST."""
        self._queues[endpoint_id].busy -= 1
        self.busy -= 1
        self._forget_idle(endpoint_id)

    def note_delivered(self, endpoint_id: str, post_s: float) -> None:
        """Note that a POST with a slot was accepted, and the seconds that it took."""
        pace = self._queues[endpoint_id].pace
        pace.streak += 1
        pace.post_s += (post_s - pace.post_s) * (1.0 if pace.streak == 1 else _SMOOTHING)

    def note_failed(self, endpoint_id: str) -> None:
        """Note that a POST that held a slot failed: none begins until that is recorded, as it may close the endpoint."""
        queue = self._queues[endpoint_id]
        queue.pace = _Pace()
        queue.failing += 1

    def end_failure(self, endpoint_id: str) -> None:
        """Note that a failure was recorded; its slot is not released yet."""
        self._queues[endpoint_id].failing -= 1

    def room(self, endpoint_id: str) -> int:
        """The number of new deliveries of an endpoint that may join; on any thread."""
        queue = self._queues.get(endpoint_id)
        free = max(0, self.total - self.busy - self.total // RESERVED_SHARE)
        if queue is not None and queue.failing:
            return 0
        held = self._rested(endpoint_id) if queue is None else self._held(queue)
        open_slots = free if held.claimed else max(free, min(1, self.total - self.busy))
        return max(0, min(self.per_endpoint - held.slots, open_slots)) + max(0, NEW_AHEAD * held.ahead - held.waiting)

    def is_low(self, endpoint_id: str) -> bool:
        """Whether so few deliveries of an endpoint wait that more should be claimed."""
        queue = self._queues.get(endpoint_id)
        return queue is None or 2 * len(queue.waiting) <= self._held(queue).ahead

    def withdraw(self, endpoint_id: str | None = None) -> list[Item]:
        """Take back what waits for a slot, of one endpoint or of all."""
        taken: list[Item] = []
        for each in list(self._queues) if endpoint_id is None else [endpoint_id]:
            if each in self._queues:
                taken += self._queues[each].waiting
                self.waiting -= len(self._queues[each].waiting)
                self._queues[each].waiting.clear()
                self._forget_idle(each)
        return taken

    def held(self) -> Mapping[str, Held]:
        """The load of each endpoint now; others hold nothing and may have nothing ahead."""
        rested = {endpoint_id: self._rested(endpoint_id) for endpoint_id in self._paces}
        return rested | {endpoint_id: self._held(queue) for endpoint_id, queue in self._queues.items()}

    def _held(self, queue: _Queue[Item]) -> Held:
        return Held(queue.busy, len(queue.waiting), 0 if queue.failing else self._ahead(queue.pace))

    def _rested(self, endpoint_id: str) -> Held:
        return Held(ahead=self._ahead(self._paces.get(endpoint_id) or _Pace()))

    def _ahead(self, pace: _Pace) -> int:
        """The deliveries that a receiver accepts within AHEAD_S, as far as it has shown since its last failure."""
        accepted = self.per_endpoint * int(min(pace.streak, AHEAD_S / max(pace.post_s, 0.001)))
        return min(accepted, AHEAD_MAX, AHEAD_OF_ALL // max(1, len(self._queues)))

    def _is_open(self, queue: _Queue[Item]) -> bool:
        free = self.total - self.busy
        return free > (0 if queue.busy == 0 else self.total // RESERVED_SHARE)

    def _forget_idle(self, endpoint_id: str) -> None:
        queue = self._queues[endpoint_id]
        if not queue.busy and not queue.waiting:
            self._paces[endpoint_id] = self._queues.pop(endpoint_id).pace
            if len(self._paces) > PACES_MAX:
                del self._paces[next(iter(self._paces))]


AGAIN_EVERY: Final = 4
REST_S_MIN: Final = 0.001


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one endpoint in this pass: up to `limit` deliveries, up to so many of each lane, in this order."""

    limit: int
    lanes: tuple[tuple[Lane, int], ...]

    @property
    def at_once(self) -> Share:
        """The part that a person requested, which goes out even while another node probes the endpoint."""
        return Share(self.limit, tuple(each for each in self.lanes if each[0] is Lane.AT_ONCE))


@dataclass(slots=True)
class _Allowance:
    """Tokens of one endpoint as of `filled_at` (monotonic seconds); `given` counts deliveries."""

    given: int = 0
    rate: float | None = None
    tokens: float = math.inf
    filled_at: float = 0.0

    def fill(self, rate: float | None, monotonic: float) -> None:
        """Add `rate` tokens for each second since the last fill."""
        passed_s, self.filled_at, self.rate = monotonic - self.filled_at, monotonic, rate
        self.tokens = math.inf if rate is None else min(max(1.0, rate), self.tokens + rate * passed_s)

    def is_full(self, monotonic: float) -> bool:
        """Whether no token is missing, so that it need not be kept."""
        return self.rate is None or self.tokens + self.rate * (monotonic - self.filled_at) >= max(1.0, self.rate)

    @property
    def token_in_s(self) -> float:
        """Seconds until there is a token."""
        return 0.0 if self.rate is None else max(0.0, (1.0 - self.tokens) / self.rate)


class DeliveryLimiter:
    """Divides what may be claimed in a pass. The back-off, which must survive a restart, is in the database."""

    def __init__(self, slots: int, slots_per_endpoint: int) -> None:
        self.slots = slots
        self.slots_per_endpoint = slots_per_endpoint
        self.nodes = 1
        """How many nodes share each endpoint's rate limit; slots are each node's own."""
        self._allowances: dict[str, _Allowance] = {}
        self._last = ""

    def take(self, endpoint_id: str) -> None:
        """Count a claimed delivery of this endpoint."""
        allowance = self._allowances[endpoint_id]
        allowance.given += 1
        allowance.tokens -= 1

    def share(
        self, due: Mapping[str, DueEndpoint], held: Mapping[str, Held], *, now: datetime, monotonic: float
    ) -> dict[str, Share]:
        """Divide the free slots among the endpoints in turn, continuing after the one that was served last."""
        self._refill(due, held, monotonic)
        rooms = {e: self._room(one, held.get(e, NOTHING), now) for e, one in due.items() if one.at <= now}
        wanting = {endpoint_id: room for endpoint_id, room in rooms.items() if room > 0}
        in_turn = sorted(wanting, key=lambda endpoint_id: (endpoint_id <= self._last, endpoint_id))
        free = self.slots - sum(one.slots for one in held.values())
        each = max(1, free // max(1, len(in_turn)))
        shares: dict[str, Share] = {}
        for endpoint_id in in_turn:
            mine = held.get(endpoint_id, NOTHING)
            spare = max(0, mine.ahead - mine.waiting)
            slots = max(0, min(self.slots_per_endpoint - mine.slots, each, self._open_to(mine, free)))
            limit = min(wanting[endpoint_id], slots + spare)
            if limit > 0:
                shares[endpoint_id] = Share(limit, self._lanes(due[endpoint_id], mine, limit, now))
                self._last = endpoint_id
                free -= max(0, limit - spare)
        return shares

    def rest_s(self, due: Mapping[str, DueEndpoint], *, now: datetime) -> float:
        """Seconds until something else may start; inf if that takes the end of a POST.

        Deliveries that are due later count even if no slot may be free then: the end of a POST need not ring the bell.
        """
        return min((self._ready_in_s(one, now) for one in due.values()), default=math.inf)

    def _refill(self, due: Mapping[str, DueEndpoint], held: Mapping[str, Held], monotonic: float) -> None:
        for endpoint_id, one in due.items():
            rate = None if one.rate_limit is None else one.rate_limit / self.nodes
            self._allowances.setdefault(endpoint_id, _Allowance()).fill(rate, monotonic)
        gone = [
            e
            for e, one in self._allowances.items()
            if e not in due and not held.get(e, NOTHING).claimed and one.is_full(monotonic)
        ]
        for endpoint_id in gone:
            del self._allowances[endpoint_id]

    def _room(self, one: DueEndpoint, held: Held, now: datetime) -> int:
        """The number of the endpoint's deliveries that may be claimed, regardless of the slots in all."""
        ordinary = self._ordinary_room(one, held, now)
        if ordinary > 0 or not _is_due(one, Lane.AT_ONCE, now):
            return ordinary
        return self.slots_per_endpoint - held.claimed

    def _ordinary_room(self, one: DueEndpoint, held: Held, now: datetime) -> int:
        opens_at = one.backoff.opens_at
        if opens_at is not None and opens_at > now:
            return 0
        if one.backoff.is_probed:
            return max(0, min(1 - held.claimed, int(self._tokens(one))))
        if one.rate_limit is not None:
            return max(0, min(self.slots_per_endpoint - held.claimed, int(self._tokens(one))))
        return max(0, self.slots_per_endpoint + held.ahead - held.claimed)

    def _tokens(self, one: DueEndpoint) -> float:
        return min(self._allowances[one.endpoint_id].tokens, self.slots_per_endpoint)

    def _open_to(self, held: Held, free: int) -> int:
        """The number of free slots that an endpoint with this load may take."""
        unreserved = max(0, free - self.slots // RESERVED_SHARE)
        return unreserved if held.claimed else max(unreserved, min(1, free))

    def _lanes(self, one: DueEndpoint, held: Held, limit: int, now: datetime) -> tuple[tuple[Lane, int], ...]:
        if self._ordinary_room(one, held, now) == 0:
            return ((Lane.AT_ONCE, limit),)
        given = self._allowances[one.endpoint_id].given
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
        return max((ready_at - now).total_seconds(), self._allowances[one.endpoint_id].token_in_s)


def _is_due(one: DueEndpoint, lane: Lane, now: datetime) -> bool:
    at = one.lanes.get(lane)
    return at is not None and at <= now
