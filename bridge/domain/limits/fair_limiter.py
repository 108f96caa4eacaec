"""The limiter of one credential: which request leaves next, and when.

Every request with one credential passes its limiter: polls, lists, second requests for output. When requests are
scarce, urgency alone decides, except that a fifth of the contested slots goes round the tenants: the burst of one
tenant cannot take everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final

from bridge.domain.frozen import frozen
from bridge.domain.limits.adaptive import InFlightLimit, RateLimit

FLOOR_SHARE: Final = 0.2
SHADOW_MEMORY: Final = 0.95  # per pick
SHADOW_HALF_LIFE_S: Final = 10.0
TENANTS_REMEMBERED: Final = 1000
TURN_S: Final = 1.0  # a turn that is not taken within this is over
Call = Callable[[], None]


@frozen
class Candidate:
    """A run that could be polled now, in seconds: `urgency_s` is W or its scarcity index, `price_s` what it must reach.

    The others must not starve its `tenant`, a connection or a tag. `weight` multiplies the urgency.
    """

    key: Hashable
    urgency_s: float
    price_s: float
    tenant: str = ""
    weight: float = 1.0

    @property
    def worth_s(self) -> float:
        """The weighted urgency by which candidates are compared."""
        return self.urgency_s * self.weight

    @property
    def is_due(self) -> bool:
        """Whether a request for it is worth its price."""
        return self.worth_s >= self.price_s


class FairRateLimiter:
    """One credential's limits and its choice of the next run. Times are readings of the monotonic clock, seconds.

    `shadow_price_s` is what a request was worth lately. Above the price the account is over its capacity; the number
    of requests wanted falls with the square root of the price, hence `over_capacity`.
    """

    def __init__(self, known_rate: float | None = None, known_in_flight: int | None = None) -> None:
        self.rate_limit = RateLimit(known_rate)
        self.in_flight_limit = InFlightLimit(known_in_flight)
        self.in_flight = 0
        self.is_shut = False
        """Whether the limits leave nothing for this node, which then leaves the runs to other nodes."""
        self.sharers = 1
        """How many nodes share the limits."""
        self.shadow_price_s = 0.0
        self.over_capacity = 1.0
        self._shadow_at = 0.0
        self._floor_credit = 0.0
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._waiting: dict[str, tuple[Candidate, Call]] = {}
        self._turn_of: str | None = None
        self._turn_ends = 0.0

    def shut(self) -> None:
        """Let no request leave for now: other nodes may still use all of the limits."""
        self.is_shut = True

    def divide(self, place: int, nodes: int) -> None:
        """Take the part of the limits that falls to the node at `place` (0 is the longest running) of `nodes`.

        Where fewer requests may be in flight than there are nodes, only that many nodes share the limits.
        """
        self.sharers = min(nodes, self.in_flight_limit.known or nodes)
        self.is_shut = place >= self.sharers
        if not self.is_shut:
            self.rate_limit.take_share(1 / self.sharers)
            self.in_flight_limit.take_share(place, self.sharers)
            self._call_waiting()

    def opens_at(self) -> float:
        """When a request may leave; infinity while that depends on other requests, which is then called back."""
        if self.is_shut or self.in_flight >= self.in_flight_limit.limit(self.rate_limit.rate):
            return math.inf
        return self.rate_limit.opens_at

    def call_when_open(self, first: Candidate, call: Call) -> None:
        """Call whenever a poll of this tenant may be able to leave, until `forget`; the longest waiting is called first.

        `first` is the most urgent poll of the tenant, or stands for it.
        """
        self._waiting[first.tenant] = (first, call)

    def forget(self, tenant: str) -> None:
        """Drop this tenant from those that wait; its turn, if any, passes to another tenant."""
        self._waiting.pop(tenant, None)
        if self._turn_of == tenant:
            self._turn_of = None
            self._call_waiting()

    def _call_waiting(self) -> None:
        for _, call in tuple(self._waiting.values()):
            call()

    def has_others(self, tenant: str) -> bool:
        """Whether another tenant waits, or has the turn: then the choice is between more than one candidate."""
        return self._turn_of is not None or any(each != tenant for each in self._waiting)

    def admit(self, candidates: Sequence[Candidate], *, now: float, is_scarce: bool) -> bool:
        """True if this tenant may send its first candidate; otherwise wakes the tenant whose turn it is.

        `candidates` are of one tenant, the most urgent first. `is_scarce` as for `pick`.
        """
        own = candidates[0].tenant
        if self._turn_of is not None and self._turn_of != own:
            if now < self._turn_ends:
                return False
            self._waiting.pop(self._turn_of, None)
        others = [first for tenant, (first, _) in self._waiting.items() if tenant != own] if self._waiting else []
        is_own_turn, self._turn_of = self._turn_of == own, None
        if not others and candidates[0].is_due:
            self._note_turn(candidates[0])
            self._note_price(candidates[0], now, is_contested=is_scarce and len(candidates) > 1)
            return True
        field = candidates if is_own_turn else [*candidates, *others]
        chosen = self.pick(field, now=now, is_scarce=is_scarce or bool(others))
        if chosen is None or chosen.tenant == own:
            return True
        self._turn_of, self._turn_ends = chosen.tenant, now + TURN_S
        self._waiting[chosen.tenant][1]()
        return False

    def pick(self, candidates: Iterable[Candidate], *, now: float = 0.0, is_scarce: bool = True) -> Candidate | None:
        """The candidate that goes next: the most urgent that is worth a request, or that of the tenant left out longest.

        `is_scarce`: a request had to wait for the limits.
        """
        due = [candidate for candidate in candidates if candidate.is_due]
        if not due:
            return None
        if len(due) == 1:
            self._note_turn(due[0])
            self._note_price(due[0], now, is_contested=False)
            return due[0]
        tenants = {candidate.tenant for candidate in due}
        self._floor_credit += FLOOR_SHARE if len(tenants) > 1 else 0.0
        field = due
        if self._floor_credit >= 1 and len(tenants) > 1:
            self._floor_credit -= 1
            left_out = min(tenants, key=lambda tenant: (self._turns.get(tenant, 0), tenant))
            field = [candidate for candidate in due if candidate.tenant == left_out]
        chosen = max(field, key=lambda candidate: candidate.worth_s)
        self._note_turn(chosen)
        self._note_price(chosen, now, is_contested=is_scarce and len(due) > 1)
        return chosen

    def send(self, now: float, tenant: str | None = None) -> None:
        """Count a request that leaves; exactly one of `answer`, `refuse`, `time_out`, `give_up` must follow.

        The next turn of `tenant` comes after that of the other tenants.
        """
        if tenant is not None:
            self._waiting.pop(tenant, None)
        self.in_flight += 1
        self.rate_limit.take(now)

    def answer(self, now: float, *, sent_at: float) -> None:
        """End a request that the provider answered, whatever it said about the run."""
        self._land()
        self.rate_limit.succeed(now, sent_at=sent_at)
        self.in_flight_limit.succeed(now - sent_at)

    def refuse(self, now: float, *, sent_at: float, retry_after_s: float | None = None) -> None:
        """End a request that the provider answered with 429, or with 503 and Retry-After."""
        self._land()
        self.rate_limit.refuse(now, sent_at=sent_at, retry_after_s=retry_after_s)

    def time_out(self) -> None:
        """End a request without an answer in time: fewer may be in flight."""
        self.in_flight_limit.time_out(self.in_flight)
        self._land()

    def give_up(self) -> None:
        """End a request that says nothing about limits: connection refused, 5xx, our own shutdown."""
        self._land()

    def _land(self) -> None:
        self.in_flight = max(self.in_flight - 1, 0)
        self._call_waiting()

    def _note_turn(self, chosen: Candidate) -> None:
        self._turn += 1
        self._turns[chosen.tenant] = self._turn
        if len(self._turns) > TENANTS_REMEMBERED:
            del self._turns[min(self._turns, key=self._turns.__getitem__)]

    def pressure(self, now: float) -> tuple[float, float]:
        """`shadow_price_s` and `over_capacity` now; both decay while no request is made."""
        left = 0.5 ** (max(now - self._shadow_at, 0.0) / SHADOW_HALF_LIFE_S)
        return self.shadow_price_s * left, 1.0 + (self.over_capacity - 1.0) * left

    def _note_price(self, chosen: Candidate, now: float, *, is_contested: bool) -> None:
        self._shadow_at = now
        worth = max(chosen.worth_s, chosen.price_s) if is_contested else chosen.price_s
        kept = SHADOW_MEMORY if self.shadow_price_s else 0.0
        self.shadow_price_s = kept * self.shadow_price_s + (1 - kept) * worth
        self.over_capacity = max(math.sqrt(self.shadow_price_s / chosen.price_s), 1.0) if chosen.price_s > 0 else 1.0
