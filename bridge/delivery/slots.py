"""Delivery slots: which claimed delivery's POST may begin now, and how many may be claimed ahead.

A slot is held while a POST is open. Each endpoint has slots of its own, and the last quarter of all slots is for
endpoints that hold none, so slow receivers cannot hold up a quick one. Deliveries that are claimed wait here for a
slot; an endpoint may have as many waiting as its receiver accepts within `AHEAD_S`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
RESERVED_SHARE: Final = 4  # a quarter of all slots
AHEAD_S: Final = 0.25
AHEAD_MAX: Final = 128  # of one endpoint
AHEAD_OF_ALL: Final = 512
PACES_MAX: Final = 100
_SMOOTHING: Final = 0.2


@dataclass(frozen=True, slots=True)
class Held:
    """What one endpoint holds: open POSTs, deliveries that wait for a slot, and how many may wait."""

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
class _Line(Generic[Item]):
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
        self._lines: dict[str, _Line[Item]] = {}
        """Endpoints with an open POST or a waiting delivery; the one that was served last is at the end."""
        self._paces: dict[str, _Pace] = {}
        """Of the endpoints that were idle last, the longest idle first."""

    def add(self, endpoint_id: str, item: Item, *, goes_first: bool = False) -> None:
        """A claimed delivery waits for a slot."""
        if (line := self._lines.get(endpoint_id)) is None:
            line = self._lines[endpoint_id] = _Line(self._paces.pop(endpoint_id, _Pace()))
        self.waiting += 1
        if goes_first:
            line.waiting.appendleft(item)
        else:
            line.waiting.append(item)

    def start_next(self) -> Item | None:
        """Take a slot for the delivery whose turn it is; None if none may begin. Endpoints take turns."""
        for endpoint_id, line in self._lines.items():
            if line.waiting and not line.failing and line.busy < self.per_endpoint and self._is_open(line):
                item = line.waiting.popleft()
                self.waiting -= 1
                line.busy += 1
                self.busy += 1
                self._lines[endpoint_id] = self._lines.pop(endpoint_id)
                return item
        return None

    def release(self, endpoint_id: str) -> None:
        """A POST no longer needs its slot."""
        self._lines[endpoint_id].busy -= 1
        self.busy -= 1
        self._forget_idle(endpoint_id)

    def note_delivered(self, endpoint_id: str, post_s: float) -> None:
        """A POST that held a slot was accepted after so many seconds."""
        pace = self._lines[endpoint_id].pace
        pace.streak += 1
        pace.post_s += (post_s - pace.post_s) * (1.0 if pace.streak == 1 else _SMOOTHING)

    def note_failed(self, endpoint_id: str) -> None:
        """A POST that held a slot failed: none begins until that is recorded, because it may close the endpoint."""
        line = self._lines[endpoint_id]
        line.pace = _Pace()
        line.failing += 1

    def end_failure(self, endpoint_id: str) -> None:
        """A failure was recorded; its slot is not released yet."""
        self._lines[endpoint_id].failing -= 1

    def room(self, endpoint_id: str) -> int:
        """How many new deliveries of an endpoint may join; on any thread."""
        line = self._lines.get(endpoint_id)
        free = max(0, self.total - self.busy - self.total // RESERVED_SHARE)
        if line is not None and line.failing:
            return 0
        held = self._rested(endpoint_id) if line is None else self._held(line)
        open_slots = free if held.claimed else max(free, min(1, self.total - self.busy))
        return max(0, min(self.per_endpoint - held.slots, open_slots)) + max(0, held.ahead - held.waiting)

    def is_low(self, endpoint_id: str) -> bool:
        """Whether so few deliveries of an endpoint wait that more should be claimed."""
        line = self._lines.get(endpoint_id)
        return line is None or 2 * len(line.waiting) <= self._held(line).ahead

    def withdraw(self, endpoint_id: str | None = None) -> list[Item]:
        """Take back what waits for a slot, of one endpoint or of all."""
        taken: list[Item] = []
        for each in list(self._lines) if endpoint_id is None else [endpoint_id]:
            if each in self._lines:
                taken += self._lines[each].waiting
                self.waiting -= len(self._lines[each].waiting)
                self._lines[each].waiting.clear()
                self._forget_idle(each)
        return taken

    def held(self) -> Mapping[str, Held]:
        """What each endpoint holds now; others hold nothing and may have nothing ahead."""
        rested = {endpoint_id: self._rested(endpoint_id) for endpoint_id in self._paces}
        return rested | {endpoint_id: self._held(line) for endpoint_id, line in self._lines.items()}

    def _held(self, line: _Line[Item]) -> Held:
        return Held(line.busy, len(line.waiting), 0 if line.failing else self._ahead(line.pace))

    def _rested(self, endpoint_id: str) -> Held:
        return Held(ahead=self._ahead(self._paces.get(endpoint_id) or _Pace()))

    def _ahead(self, pace: _Pace) -> int:
        """What a receiver accepts within AHEAD_S, as far as it has shown since its last failure."""
        accepted = self.per_endpoint * int(min(pace.streak, AHEAD_S / max(pace.post_s, 0.001)))
        return min(accepted, AHEAD_MAX, AHEAD_OF_ALL // max(1, len(self._lines)))

    def _is_open(self, line: _Line[Item]) -> bool:
        free = self.total - self.busy
        return free > (0 if line.busy == 0 else self.total // RESERVED_SHARE)

    def _forget_idle(self, endpoint_id: str) -> None:
        line = self._lines[endpoint_id]
        if not line.busy and not line.waiting:
            self._paces[endpoint_id] = self._lines.pop(endpoint_id).pace
            if len(self._paces) > PACES_MAX:
                del self._paces[next(iter(self._paces))]
