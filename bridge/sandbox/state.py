"""The state of the sandbox: its runs, injected faults, rate limits, and the requests it has seen."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.clock import Clock
from bridge.domain.run import Json, RunError, RunStatus
from bridge.sandbox.scenarios import ProviderStep, RunSnapshot, Scenario, cut_short, snapshot_at

REQUESTS_KEPT: Final = 100_000
WORD_FAULTS: Final = frozenset({"garbage", "html", "hang", "reset"})


@dataclass(frozen=True, slots=True)
class SandboxRun:
    """One run at a fake provider. `created_s` is monotonic; its timestamps count from `created_at`."""

    id: str
    provider: str
    shape: str
    scenario: Scenario
    steps: tuple[ProviderStep, ...]
    created_at: datetime
    created_s: float
    workflow_id: str
    task_id: str
    late_404_s: float
    inputs: dict[str, Json]
    metadata: dict[str, str]

    def instant(self, after_s: float | None) -> datetime | None:
        """The instant at an age of this run."""
        return None if after_s is None else self.created_at + timedelta(seconds=after_s)


@dataclass(slots=True)
class Fault:
    """An injected fault: it strikes the next `left` matching requests (None: all of them).

    `kind`: an HTTP status (`500`), or `garbage`, `html` (both with status 200), `hang`, `reset`.
    None in `provider`, `run_id`, `path_contains` and `path_ends` matches everything; `retry_after` is sent as given.
    """

    kind: str
    left: int | None = 1
    provider: str | None = None
    run_id: str | None = None
    path_contains: str | None = None
    retry_after: str | None = None
    path_ends: str | None = None

    def __post_init__(self) -> None:
        is_status = self.kind.isascii() and self.kind.isdigit() and 400 <= int(self.kind) <= 599
        if not is_status and self.kind not in WORD_FAULTS:
            raise ValueError(
                f"{self.kind} is not a fault: give an HTTP status 400-599 or {', '.join(sorted(WORD_FAULTS))}"
            )

    def matches(self, provider: str, run_id: str | None, path: str) -> bool:
        """Whether it matches this request."""
        return (
            (self.left is None or self.left > 0)
            and self.provider in (None, provider)
            and self.run_id in (None, run_id)
            and (self.path_contains is None or self.path_contains in path)
            and (self.path_ends is None or path.endswith(self.path_ends))
        )


@dataclass(slots=True)
class RequestSeen:
    """One request; `status` is None until it is answered, and stays None if it never is."""

    at: datetime
    provider: str
    method: str
    path: str
    query: str
    run_id: str | None
    fault: str | None = None
    status: int | None = None


@dataclass(slots=True)
class Limit:
    """A token bucket: `per_second` requests on average, up to `burst` at once; `is_announced` adds Retry-After."""

    per_second: float
    burst: float
    is_announced: bool
    tokens: float
    filled_s: float

    def wait_s(self, now_s: float) -> float | None:
        """Take a token: None, or the seconds until there is one."""
        self.tokens = min(self.burst, self.tokens + (now_s - self.filled_s) * self.per_second)
        self.filled_s = now_s
        if self.tokens >= 1:
            self.tokens -= 1
            return None
        return (1 - self.tokens) / self.per_second


@dataclass(slots=True)
class SandboxState:
    """Everything that the fake providers share. `triggered_scenarios`: by provider, what triggered runs do.

    `ib_context`: the value that Instabase requires in `IB-Context`. `dify_missing_is_null`: an unknown Dify run is
    answered as by old servers, 200 with nulls. `results_page_files`: files in one page of Instabase results.
    `sends_etags`: responses about one run have an ETag, and 304 if it is sent back. `list_is_summary`: lists show
    only ids and status.
    """

    clock: Clock
    api_key: str
    ib_context: str | None = None
    dify_missing_is_null: bool = False
    results_page_files: int = 2
    sends_etags: bool = False
    list_is_summary: bool = False
    runs: dict[tuple[str, str], SandboxRun] = field(default_factory=dict)
    triggered_scenarios: dict[str, Scenario] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    requests: deque[RequestSeen] = field(default_factory=lambda: deque(maxlen=REQUESTS_KEPT))
    counts: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    in_flight_peak: Counter[str] = field(default_factory=Counter)
    faults_over: asyncio.Event = field(default_factory=asyncio.Event)
    is_closing: bool = False

    def age_s(self, run: SandboxRun) -> float:
        """Age in seconds."""
        return self.clock.monotonic() - run.created_s

    def snapshot(self, run: SandboxRun) -> RunSnapshot:
        """The state of the run now."""
        return snapshot_at(run.steps, self.age_s(run), scenario=run.scenario)

    def is_visible(self, run: SandboxRun) -> bool:
        """Whether the provider knows it: not during its late-404 time, not when `lost`."""
        return self.age_s(run) >= run.late_404_s and self.snapshot(run).status is not RunStatus.LOST

    def get(self, provider: str, run_id: str) -> SandboxRun | None:
        """The run, visible or not."""
        return self.runs.get((provider, run_id))

    def find(self, provider: str, run_id: str) -> SandboxRun | None:
        """The run if the provider knows it now."""
        run = self.get(provider, run_id)
        return run if run and self.is_visible(run) else None

    def list_runs(self, provider: str) -> list[SandboxRun]:
        """All visible runs of a provider, newest first."""
        mine = [run for run in self.runs.values() if run.provider == provider and self.is_visible(run)]
        return sorted(mine, key=lambda run: (run.created_at, run.id), reverse=True)

    def add(self, run: SandboxRun) -> None:
        """Add or replace a run."""
        self.runs[run.provider, run.id] = run

    def remove(self, run: SandboxRun) -> None:
        """Delete a run."""
        self.runs.pop((run.provider, run.id), None)

    def cancel(self, run: SandboxRun, word: str, reason: str) -> bool:
        """End a run now; False if it is settled already."""
        if self.snapshot(run).status.is_settled:
            return False
        steps = cut_short(run.steps, self.age_s(run), word, RunStatus.CANCELLED)
        self.add(replace(run, steps=steps, scenario=replace(run.scenario, error=RunError(reason))))
        return True

    def fault_for(self, provider: str, run_id: str | None, path: str) -> Fault | None:
        """The first fault that matches this request; counts it as used once."""
        fault = next((f for f in self.faults if f.matches(provider, run_id, path)), None)
        if fault and fault.left is not None:
            fault.left -= 1
        return fault

    def retry_after_s(self, provider: str) -> tuple[int, bool] | None:
        """Whole seconds to wait and whether to announce them; None while within the rate limit."""
        limit = self.limits.get(provider)
        wait_s = limit.wait_s(self.clock.monotonic()) if limit else None
        return None if limit is None or wait_s is None else (max(1, math.ceil(wait_s)), limit.is_announced)

    def record_request(self, seen: RequestSeen) -> None:
        """Record a request as it comes in."""
        self.requests.append(seen)
        self.counts[seen.provider] += 1
        self.in_flight[seen.provider] += 1
        self.in_flight_peak[seen.provider] = max(self.in_flight_peak[seen.provider], self.in_flight[seen.provider])

    def record_response(self, seen: RequestSeen, status: int | None) -> None:
        """Record the status of its response."""
        seen.status = status
        self.in_flight[seen.provider] -= 1

    def clear_faults(self) -> None:
        """Remove all faults and end hanging requests."""
        self.faults.clear()
        self.faults_over.set()
        self.faults_over = asyncio.Event()

    def reset(self) -> None:
        """Forget runs, scenarios, faults, limits and requests."""
        self.clear_faults()
        for memory in (
            self.runs,
            self.triggered_scenarios,
            self.limits,
            self.requests,
            self.counts,
            self.in_flight_peak,
        ):
            memory.clear()

    def close(self) -> None:
        """End everything that waits."""
        self.is_closing = True
        self.clear_faults()
