"""The clocks and random bytes of a simulated machine. Take them over before anything else is imported."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

EPOCH_S: Final = 1_900_000_000.0  # the wall clock when the monotonic one shows 0
START_S: Final = 1000.0
FOLLOWS_WITHIN_S: Final = 150.0  # the daemon's clock follows the wall clock this late if the disk fails at that time


@dataclass
class VirtualClock:
    """`now_s` is monotonic and moved by the event loop; `wall_offset_s` is what the wall clock was set ahead by."""

    now_s: float = START_S
    wall_offset_s: float = 0.0
    settings: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    """When the wall clock was set (monotonic), and its offset from then on."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return self.now_s

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return EPOCH_S + self.now_s + self.wall_offset_s

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward by so much, or back."""
        self.wall_offset_s += seconds
        self.settings.append((self.now_s, self.wall_offset_s))

    def times_of(self, wall_s: float) -> list[float]:
        """The monotonic times at which the wall clock, or a clock that follows it, may have shown this."""
        found = []
        for (from_s, offset_s), (until_s, _) in pairwise([*self.settings, (self.now_s, 0.0)]):
            at_s = wall_s - EPOCH_S - offset_s
            if from_s - 1 <= at_s <= until_s + FOLLOWS_WITHIN_S:
                found.append(at_s)
        return found

    def take_over(self) -> None:
        """Make this the clock of the whole process."""
        time.monotonic = time.perf_counter = self.monotonic
        time.time = self.wall_s
        time.time_ns = lambda: int(self.wall_s() * 1e9)
        time.process_time = time.thread_time = lambda: 0.0  # work takes no time
        seed_random(0)


def seed_random(seed: int) -> None:
    """Make the random bytes and numbers of this process those of the seed."""
    random.seed(seed)
    os.urandom = random._urandom = random.Random(seed).randbytes  # type: ignore[attr-defined]  # noqa: SLF001 - `secrets` reads it
