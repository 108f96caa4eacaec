"""What one poll saw: an observation, or one of the reasons why there was none.

Judged once, near the wire; the rest of the code matches on these values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bridge.domain.frozen import frozen
from bridge.domain.run import Json, Progress, RunError, RunStatus


@frozen
class Observation:
    """One run as the provider tells it, in our words.

    `provider_status` is the provider's own word. Times are canonical text (see `instant`).
    `output_is_elsewhere`: the output lies behind a second request, made once after success.
    """

    status: RunStatus
    provider_status: str
    workflow_id: str | None = None
    progress: Progress | None = None
    output: Json = None
    error: RunError | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    output_is_elsewhere: bool = False


class FailureKind(StrEnum):
    """Why a poll brought no observation. None of these is ever a state of the run."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    TLS = "tls"
    DNS = "dns"
    TRANSPORT = "transport"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    REJECTED = "rejected"
    BAD_PAYLOAD = "bad_payload"
    NOT_FOUND = "not_found"


@frozen
class Observed:
    """The provider answered with a run.

    `poll_after_s`: it asked not to be polled sooner than that. `answered_at`: the time of the answer by the
    provider's own clock (canonical text), to be compared with nothing but its other times. `etag`: what to send
    with the next question; `is_unchanged`: to the last one it answered 304, which spares quota and bytes. `body`: the
    answer's bytes, where they are few; the same bytes again mean the same run.
    """

    observation: Observation
    poll_after_s: float | None = None
    answered_at: str | None = None
    etag: str | None = None
    is_unchanged: bool = False
    body: bytes | None = None


@frozen
class Known:
    """What the last answer about a run said: the observation that a 304 to its `etag`, or the same `body`, stands for."""

    observation: Observation
    etag: str | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class PollFailed:
    """The poll brought nothing. `retry_after_s` is the provider's wish, `status` its HTTP status if any."""

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after_s: float | None = None


PollResult = Observed | PollFailed


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run as a list shows it; no observation where that part of the list cannot be read.

    `needs_detail`: the list leaves out what belongs to a settled run, so a change is to be looked at.
    """

    provider_run_id: str
    observation: Observation | None
    needs_detail: bool = False


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of a provider's list, newest run first; `next_cursor` None at its end.

    `poll_after_s` and `answered_at` as in `Observed`.
    """

    runs: tuple[ListedRun, ...]
    next_cursor: str | None = None
    poll_after_s: float | None = None
    answered_at: str | None = None
