"""Plot of a learned distribution for a terminal: durations on a logarithmic axis, and the planned polls.

     ▂█▁
    ▅███▆▁
────┬──────────┬────
   30s        60s
     ▲ ▲ ▲  ▲   ▲  ▸
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text

from bridge.cli.client import Object
from bridge.domain.timestamps import format_duration

ROWS: Final = 8
MARGIN: Final = 2
PADDING: Final = 1.03  # beside the outermost cells
EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3600.0, 86400.0
STEPS_S: Final = (
    *(step * SECOND for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)),
    *(step * MINUTE for step in (1, 2, 5, 10, 20, 30)),
    *(step * HOUR for step in (1, 2, 5, 12)),
    *(step * DAY for step in (1, 2, 5, 10, 20)),
)
TICKS_MIN: Final = 4

ColumnOf = Callable[[float], float]


def draw(distribution: Object, width: int) -> list[Text]:
    """Return the histogram, its axis, and the planned polls, in lines of at most `width` characters."""
    cells, columns = distribution["cells"], width - 2 * MARGIN
    low, high = math.log(cells[0]["from_s"] or cells[0]["to_s"] / 2), math.log(cells[-1]["to_s"])
    low, high = low - math.log(PADDING), high + math.log(PADDING)

    def column_of(age_s: float) -> float:
        """The column of an age; below 0 or above `columns` for an age beyond the axis."""
        return (math.log(age_s) - low) / (high - low) * columns if age_s > 0 else -math.inf

    axis, labels = _axis(math.exp(low), math.exp(high), columns, column_of)
    return [
        *(Text(" " * MARGIN + line.rstrip(), style="cyan") for line in _bars(_heights(cells, columns, column_of))),
        Text(" " * MARGIN + axis, style="dim"),
        Text(" " * MARGIN + labels.rstrip()),
        Text(" " * MARGIN + _marks(distribution["planned_polls_s"], columns, column_of).rstrip(), style="yellow"),
    ]


def _heights(cells: Sequence[Object], columns: int, column_of: ColumnOf) -> list[float]:
    """The share of runs in each column, divided by the largest."""
    shares = [0.0] * columns
    for cell in cells:
        left, right = max(column_of(cell["from_s"]), 0.0), column_of(cell["to_s"])
        for column in range(int(left), min(math.ceil(right), columns)):
            covered = min(right, column + 1) - max(left, column)
            shares[column] += cell["share"] * covered / (right - left)
    largest = max(shares) or 1.0
    return [share / largest for share in shares]


def _bars(heights: Sequence[float]) -> list[str]:
    eighths = [math.ceil(height * ROWS * 8 - 0.5) for height in heights]
    return ["".join(EIGHTHS[min(max(full - row * 8, 0), 8)] for full in eighths) for row in reversed(range(ROWS))]


def _axis(low_s: float, high_s: float, columns: int, column_of: ColumnOf) -> tuple[str, str]:
    """The line with its ticks, and the labels centred below; a label without room is left out."""
    line, labels, free_from = ["─"] * columns, [" "] * columns, 0
    for age_s in _ticks(low_s, high_s):
        column, label = min(int(column_of(age_s)), columns - 1), format_duration(age_s)
        start = min(max(column - len(label) // 2, 0), columns - len(label))
        if start >= free_from:
            line[column] = "┬"
            labels[start : start + len(label)] = label
            free_from = start + len(label) + 2
    return "".join(line), "".join(labels)


def _ticks(low_s: float, high_s: float) -> list[float]:
    """Round ages on the axis: STEPS_S where it is long, evenly spaced where it is short."""
    ticks = [step for step in STEPS_S if low_s <= step <= high_s]
    finer = (step for step in reversed(STEPS_S) if step < high_s - low_s)
    while len(ticks) < TICKS_MIN and (step := next(finer, None)):
        first, last = math.ceil(low_s / step), math.floor(high_s / step)
        ticks = [round(number * step, 3) for number in range(first, last + 1)]
    return ticks


def _marks(ages_s: Sequence[float], columns: int, column_of: ColumnOf) -> str:
    """▲ for a planned poll; ◂ and ▸ for those beyond the axis. The first poll, at age 0, has no mark."""
    marks = [" "] * columns
    for age_s in ages_s[1:]:
        column = column_of(age_s)
        at = min(max(int(column), 0), columns - 1)
        marks[at] = "◂" if column < 0 else "▸" if column >= columns else "▲"
    return "".join(marks)
