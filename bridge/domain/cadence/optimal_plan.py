"""The cheapest poll ages for a run whose distribution of durations is given: exact, in one sweep.

Minimises E[delay] + price · E[polls] (Barlow, Hunter and Proschan 1963) over schedules on a grid. From point
j, alive, the next poll at point m costs price · S_j + Σ (grid_m − t) over what finishes between them. Its only
term in both j and m is −grid_m · F_j, so each point m is a straight line in x = F_j with slope −grid_m. The sweep goes
from old to young: slopes rise, x falls, and the best line is found on a lower envelope that is walked once.

The result is a table from age to next poll, not a list of instants: after a late, lost or rate-limited poll it still
holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

_Line = tuple[float, float, int]  # slope, value at 0, the grid point it stands for


def plan_polls(ages_s: Sequence[float], finished: Sequence[float], price_s: float, min_interval_s: float) -> list[int]:
    """For every grid point, the point of the next poll when the run was seen alive there.

    `ages_s` rises from 0; `finished[i]` is P(finished by ages_s[i]), 1 at the end; `price_s` is the delay that one
    request is worth. Polls keep `min_interval_s` apart, except that the last point is always allowed.
    """
    last = len(ages_s) - 1
    moment = [
        0.0,
        *accumulate((finished[i] - finished[i - 1]) * (ages_s[i] + ages_s[i - 1]) / 2 for i in range(1, last + 1)),
    ]
    cost, successor = [0.0] * (last + 1), [last] * (last + 1)
    envelope: list[_Line] = []
    best, addable = 0, last
    for j in range(last - 1, -1, -1):
        earliest = ages_s[j] + min_interval_s
        while addable > j and (addable == last or ages_s[addable] >= earliest):
            age = ages_s[addable]
            _add_line(envelope, best, (-age, age * finished[addable] - moment[addable] + cost[addable], addable))
            addable -= 1
        best = min(best, len(envelope) - 1)
        x = finished[j]
        while best + 1 < len(envelope) and _value(envelope[best + 1], x) <= _value(envelope[best], x):
            best += 1
        successor[j] = envelope[best][2]
        cost[j] = price_s * (1 - x) + moment[j] + _value(envelope[best], x)
    return successor


def _value(line: _Line, x: float) -> float:
    return line[0] * x + line[1]


def _add_line(envelope: list[_Line], best: int, line: _Line) -> None:
    """Append `line` and drop the lines before it that are now nowhere lowest."""
    slope, base, _ = line
    while len(envelope) - best >= 2:
        (slope_1, base_1, _), (slope_0, base_0, _) = envelope[-1], envelope[-2]
        if (base - base_0) * (slope_1 - slope_0) > (base_1 - base_0) * (slope - slope_0):
            break
        envelope.pop()
    envelope.append(line)
