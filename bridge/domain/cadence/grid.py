"""The time scale that the learned cadence thinks on: cells from 0.1 s to 30 days, each 3 % longer than the last.

A distribution of durations is a list of masses, one per cell, spread evenly inside the cell. Equal steps in
log time suit durations: being 3 % wrong costs the same at 5 seconds and at 5 hours.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

FIRST_EDGE_S: Final = 0.1
STEP: Final = 1.03
CELLS: Final = 579
EDGES_S: Final[tuple[float, ...]] = (0.0, *(FIRST_EDGE_S * STEP**i for i in range(CELLS)))
WIDTHS_S: Final[tuple[float, ...]] = tuple(b - a for a, b in pairwise(EDGES_S))
END_S: Final = EDGES_S[-1]  # 30.4 days, just over the default deadline


def cell_at(age_s: float) -> int:
    """The cell that holds an age; a cell includes its upper edge, and what is older than the grid is in the last."""
    return min(max(bisect_left(EDGES_S, age_s) - 1, 0), CELLS - 1)


def log_logistic(median_s: float, spread: float) -> list[float]:
    """Masses of a log-logistic distribution; `spread` is its logistic scale in log time (1.2: a factor 14 at p90)."""
    inner = [1 / (1 + math.exp(min(700.0, -math.log(edge / median_s) / spread))) for edge in EDGES_S[1:-1]]
    reached = [0.0, *inner, 1.0]
    return [b - a for a, b in pairwise(reached)]


def kernel_decay(width: float) -> float:
    """The factor per cell of a two-sided exponential kernel whose scale is `width` in log time (0.05: 5 %)."""
    return math.exp(-math.log(STEP) / width)


def smooth(mass: Sequence[float], decay: float) -> list[float]:
    """`mass` blurred by a two-sided exponential kernel and brought to a total of 1; one pass each way."""
    blurred = list(accumulate(mass, lambda carried, own: carried * decay + own))
    carried = 0.0
    for i in range(len(blurred) - 1, -1, -1):
        blurred[i] += carried
        carried = (carried + mass[i]) * decay
    total = sum(blurred)
    return [value / total for value in blurred]


def covered_shares(low_s: float, high_s: float) -> tuple[int, list[float]]:
    """The first cell that the interval (low, high] touches, and the share of each touched cell that it covers.

    An interval within one cell counts as the whole cell: nothing is known more finely than that.
    """
    low_s, high_s = min(low_s, EDGES_S[-2]), min(high_s, END_S)
    last = cell_at(high_s)
    first = min(cell_at(low_s * (1 + 1e-9)), last)
    if first == last or high_s - low_s < 1e-6:
        return last, [1.0]
    return first, [
        max(0.0, min(EDGES_S[i + 1], high_s) - max(EDGES_S[i], low_s)) / WIDTHS_S[i] for i in range(first, last + 1)
    ]
