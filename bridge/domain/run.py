"""A run: one watched execution at a provider, and the canonical words for its status.

queued ──► running ──► succeeded | partial | failed | cancelled      (told by the provider)
   ▲         │  ▲
   └► waiting ◄─┘      unknown: a word we do not know; keeps being watched
expired: our own deadline passed · lost: the provider no longer knows the run
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from bridge.domain.frozen import frozen

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class RunStatus(StrEnum):
    """The canonical status of a run; the same words for every provider."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"

    @property
    def is_settled(self) -> bool:
        """No further change is expected."""
        return self in _SETTLED


_SETTLED = frozenset(
    {RunStatus.SUCCEEDED, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED, RunStatus.LOST}
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in the provider's own units; only where the provider reports it."""

    completed: int | float
    total: int | float


@dataclass(frozen=True, slots=True)
class RunError:
    """What the provider says went wrong."""

    message: str
    code: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class CadenceOverrides:
    """What one run (or one connection) sets differently from `[cadence]`; None means not set. Seconds."""

    price_s: float | None = None
    target_delay: str | None = None
    min_interval_s: float | None = None
    max_interval_s: float | None = None


@frozen
class Run:
    """One watched execution, as the database has it.

    `version` counts the writes that changed it (compare-and-set); `sequence` the events told of it.
    `created_at`, `started_at`, `finished_at` are the provider's own, canonical text; None is "not told".
    `is_paused`: its waiting was told, and not yet that it runs again. `deadline_at` moves with waiting time unless `deadline_is_fixed`. `next_poll_at` is None once settled.
    """

    id: str
    connection: str
    provider: str
    provider_run_id: str
    workflow_id: str | None
    status: RunStatus
    provider_status: str | None
    progress: Progress | None
    output: Json
    output_truncated: bool
    error: RunError | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    registered_at: datetime
    observed_at: datetime | None
    status_since: datetime
    metadata: dict[str, Json]
    tags: tuple[str, ...]
    cadence: CadenceOverrides
    deadline_at: datetime | None
    deadline_is_fixed: bool
    version: int
    sequence: int
    has_started: bool
    is_paused: bool
    is_overdue: bool
    polls: int
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    failure_streak: int
    not_found_count: int
    not_found_since: datetime | None
    provider_ref: str | None = None

    @property
    def settled(self) -> bool:
        """No further change is expected."""
        return self.status.is_settled
