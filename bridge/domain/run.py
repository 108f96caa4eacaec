"""A run: one watched execution at a provider, and its canonical statuses.

queued ──► running ──► succeeded | partial | failed | cancelled      (the provider's word)
   ▲         │  ▲
   └► waiting ◄─┘      unknown: a word we do not know; still watched
expired: our own deadline passed · lost: the provider no longer knows the run
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from bridge.domain.failure import LastError
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

    @property
    def is_our_verdict(self) -> bool:
        """The run was given up here; the provider did not say that it is over."""
        return self in (RunStatus.EXPIRED, RunStatus.LOST)


_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)


def canonical_run_id(provider_run_id: str) -> str:
    """A provider's run id in its one spelling: without outer blanks, and a UUID in lower case."""
    text = provider_run_id.strip()
    return text.lower() if _UUID.fullmatch(text) else text


_SETTLED = frozenset(
    {RunStatus.SUCCEEDED, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED, RunStatus.LOST}
)


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run in the provider's own units, if it reports that."""

    completed: int | float
    total: int | float


@dataclass(frozen=True, slots=True)
class RunError:
    """The error that the provider reports."""

    message: str
    code: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class CadenceOverrides:
    """The settings in which one run (or one connection) differs from `[cadence]`; None means not set. Seconds."""

    price_s: float | None = None
    target_delay: str | None = None
    min_interval_s: float | None = None
    max_interval_s: float | None = None


NO_OVERRIDES: Final = CadenceOverrides()
"""One object for nearly all runs."""


@frozen
class Run:
    """One watched execution, as the database has it; each field is a column of the same name.

    The defaults are those of a run before its first poll. `created_at`, `started_at` and `finished_at` are the
    provider's own times as canonical text, None where it gives none. `version` counts the writes that changed the run
    (compare-and-set), `sequence` its events. `is_paused`: `run.waiting` was recorded, and not yet that it runs again.
    `deadline_at` moves with waiting time unless `deadline_is_fixed`. `next_poll_at` is None once settled.
    `trace_context` is that of its registration, as text. `link` is the provider's own page about it. `last_error` is written when polls begin to fail or fail in another way; its `count` may be behind.
    """

    id: str
    connection: str
    provider: str
    provider_run_id: str
    registered_at: datetime
    status_since: datetime
    metadata: dict[str, Json]
    workflow_id: str | None = None
    status: RunStatus = RunStatus.QUEUED
    provider_status: str | None = None
    progress: Progress | None = None
    output: Json = None
    output_truncated: bool = False
    error: RunError | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    observed_at: datetime | None = None
    tags: tuple[str, ...] = ()
    cadence: CadenceOverrides = CadenceOverrides()
    deadline_at: datetime | None = None
    deadline_is_fixed: bool = False
    version: int = 1
    sequence: int = 0
    has_started: bool = False
    is_paused: bool = False
    is_overdue: bool = False
    polls: int = 0
    last_polled_at: datetime | None = None
    next_poll_at: datetime | None = None
    failure_streak: int = 0
    not_found_count: int = 0
    not_found_since: datetime | None = None
    provider_ref: str | None = None
    generation: str | None = None
    last_error: LastError | None = None
    trace_context: str | None = None
    link: str | None = None

    @property
    def settled(self) -> bool:
        """No further change is expected."""
        return self.status.is_settled
