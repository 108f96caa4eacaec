"""Write docs/performance.md from the figures of benchmarks/table.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Aim:
    """The target of a row: for its value, or with `is_ratio` for the quotient by the baseline.

    `limit` says what keeps it from being better now, and why.
    """

    least: float
    best: float
    limit: str
    is_ratio: bool = True
    is_lower_better: bool = True


@dataclass
class Figure:
    """The values of one row, a round each: of the daemon, the baseline, and the daemon with synchronous=NORMAL."""

    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    normal: list[float] = field(default_factory=list)

    def add(self, ours: float, baseline: float | None, normal: float | None) -> None:
        self.ours.append(ours)
        if baseline is not None:
            self.baseline.append(baseline)
        if normal is not None:
            self.normal.append(normal)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ours) / statistics.median(self.baseline) if self.baseline else None

    @property
    def normal_ratio(self) -> float | None:
        if not self.normal or not self.baseline:
            return None
        return statistics.median(self.normal) / statistics.median(self.baseline)


_LATENCY = (
    "three commits with their `fdatasync` stand in the way, as in the baseline; the rest is Python: two HTTP requests "
    "by aiohttp's client and one by its server with bounds, checks and the address guard, which the baseline leaves out"
)
_CPU = (
    "Python and aiohttp; the checks of request, response and address, which the baseline leaves out, and two threads "
    "that share one interpreter lock. uvloop saved 3 to 9 % on Python 3.11, too little for another dependency"
)
_RATE = "one core of Python: what the requests, the polls, the deliveries and the rows of an event cost together"
_POSTGRES = "one round trip and one commit for each of the three steps, as in the baseline; the rest is Python"
AIMS: Mapping[str, Aim] = {
    **{
        f"{rate}/s: {name}": Aim(least, best, _CPU if name == "cpu" else _LATENCY)
        for rate, aims in {
            10: (("p50", 1.5, 1.2), ("p99", 1.8, 1.4), ("cpu", 1.7, 1.4)),
            50: (("p50", 1.5, 1.2), ("p99", 1.8, 1.4), ("cpu", 1.7, 1.4)),
            200: (("p50", 1.8, 1.3), ("p99", 2.5, 1.5), ("cpu", 1.6, 1.3)),
        }.items()
        for name, least, best in aims
    },
    "burst, 1 a request: per_s": Aim(0.70, 0.90, _RATE, is_lower_better=False),
    "burst, 1 a request: tenth_s": Aim(2.0, 1.3, _RATE),
    "burst, 1 a request: cpu": Aim(1.5, 1.2, _CPU),
    "burst, 1000 a request: per_s": Aim(0.70, 0.90, _RATE, is_lower_better=False),
    "burst, 1000 a request: tenth_s": Aim(
        2.0, 1.3, "a batch of 1,000 is checked and written in a tenth of a second, in which little else goes on"
    ),
    "PostgreSQL, 50/s: p50": Aim(1.6, 1.3, _POSTGRES),
    "PostgreSQL, 50/s: cpu": Aim(2.0, 1.5, "of the daemon alone; the server's is not counted"),
    "PostgreSQL, 200/s: p50": Aim(2.0, 1.5, _POSTGRES),
    "PostgreSQL, burst, 1 a request: per_s": Aim(0.90, 1.3, _POSTGRES, is_lower_better=False),
    "PostgreSQL, two nodes: burst": Aim(
        1.3,
        1.5,
        "two daemons, the server and the clients share two cores. An event takes 0.9 ms of a daemon, 0.3 of the server and "
        "0.4 of the clients, and one node uses nearly all of both: 1.14 is possible if a second node cost nothing",
        is_lower_better=False,
    ),
    "10/s: commits per event": Aim(3.0, 3.0, "a commit each for the run, its end, and the attempt", is_ratio=False),
    "10/s: WAL pages per event": Aim(24.0, 18.0, "each index that a row is in costs a page", is_ratio=False),
    "100,000 due at once: per second": Aim(
        1_000.0, 1_500.0, "one core: claim, POST and attempt of each", is_ratio=False, is_lower_better=False
    ),
    "memory at rest, MB": Aim(
        90.0, 60.0, "the modules: SQLAlchemy, pydantic, aiohttp and cryptography are most of it", is_ratio=False
    ),
    "memory after a storm of 10,000, MB": Aim(
        100.0, 70.0, "the same, and arenas of Python's allocator that one living object keeps", is_ratio=False
    ),
    "POST /v1/runs: per second": Aim(
        0.50, 0.60, "token, host, JSON, validation, log line and the row; one core", is_lower_better=False
    ),
    "batch registration: runs per second": Aim(
        20_000.0, 30_000.0, "the writer's thread and validation share the interpreter lock", False, False
    ),
    "events that wait in the database: per second": Aim(0.60, 0.80, _RATE, is_lower_better=False),
    "polls without change: per second": Aim(
        0.75,
        0.85,
        "more than half is aiohttp's client, as in the baseline; the rest is the cadence, the limiter and the checks of "
        "each response; one core",
        is_lower_better=False,
    ),
    "start with 1,000,000 runs, s": Aim(1.5, 0.7, "importing the libraries", is_ratio=False),
    "runbridge --help, s": Aim(0.12, 0.08, "the interpreter and click", is_ratio=False),
    "runbridge runs list, s": Aim(0.20, 0.12, "rich and http.client", is_ratio=False),
    "100 endpoints of which one wants the event: CPU": Aim(1.1, 1.05, "events are matched by type before their filter"),
}
_UNITS = {"p50": "ms", "p99": "ms", "cpu": "us of CPU", "per_s": "per second", "tenth_s": "s to the first tenth"}


def write_page(path: Path, facts: Mapping[str, str], figures: Mapping[str, Figure], failed: Sequence[str]) -> None:
    """Write the page; a figure without an aim is listed as well."""
    lines = [
        "# Performance",
        "",
        "Written by `make bench`; edit `benchmarks/performance_page.py` instead. Times depend on the machine; the ratios,",
        "to the least program that does the same and to loops without any work (`benchmarks/journey.py`,",
        "`benchmarks/pipeline.py`), measured in turn within the same run, hardly do.",
        "",
        *(f"- **{name}**: {fact}" for name, fact in facts.items()),
        "- **settings**: the defaults, but for limits of the fake provider's connection; `synchronous=FULL`",
        "",
        "Medians of the rounds; the spread is the lowest and the highest. `NORMAL` is one round of the daemon with",
        "`synchronous=NORMAL`, which may lose the last commits when the power fails: the price of durability. It is no",
        "setting, and its ratio is to the same baseline. The baseline of a row on PostgreSQL is on PostgreSQL, too.",
        "Memory is what is resident.",
        "",
        "| figure | runbridge | spread | baseline | ratio | NORMAL | at least | aim | reached |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, figure) for name, figure in figures.items()),
        "",
        "## What the limit is now",
        "",
        "| figure | limit |",
        "|---|---|",
        *(f"| {_label(name)} | {aim.limit} |" for name, aim in AIMS.items() if name in figures),
        "",
    ]
    if failed:
        lines += ["Not measured in this run:", "", *(f"- {each}" for each in failed), ""]
    path.write_text("\n".join(lines))


def _row(name: str, figure: Figure) -> str:
    aim = AIMS.get(name)
    ours, ratio = statistics.median(figure.ours), figure.ratio
    shown = [
        _label(name),
        _number(ours),
        f"{_number(min(figure.ours))}–{_number(max(figure.ours))}",
        _number(statistics.median(figure.baseline)) if figure.baseline else "",
        f"{ratio:.2f}" if ratio is not None else "",
        f"{figure.normal_ratio:.2f}"
        if figure.normal_ratio
        else _number(statistics.median(figure.normal))
        if figure.normal
        else "",
        _number(aim.least) if aim else "",
        _number(aim.best) if aim else "",
        _reached(aim, ratio if aim.is_ratio and ratio is not None else ours) if aim else "",
    ]
    return "| " + " | ".join(shown) + " |"


def _label(name: str) -> str:
    load, _, last = name.rpartition(": ")
    return f"{load}: {_UNITS[last]}" if last in _UNITS and last.startswith(("cpu", "per_s", "tenth")) else name


def _reached(aim: Aim, value: float) -> str:
    def holds(wanted: float) -> bool:
        return round(value, 2) <= wanted if aim.is_lower_better else round(value, 2) >= wanted

    return "the aim" if holds(aim.best) else "at least" if holds(aim.least) else "**no**"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
