"""The result of a poll: an observation, or the kind of failure.

Each result is classified once, near the wire; the rest of the code matches on these values.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.domain.failure import FailureKind
from bridge.domain.frozen import frozen
from bridge.domain.run import Json, Progress, RunError, RunStatus


@frozen
class Observation:
    """The state of one run at the provider, in canonical terms.

    `provider_status` is the provider's own word. Times are canonical text (see `provider_instant`).
    `output_is_elsewhere`: the output needs a second request, made once after success. `output_truncated`: there is an
    output that cannot be kept, and `output` is None. `generation` differs once a run was started again under its id.
    `link` is the address of the provider's own page about the run.
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
    output_truncated: bool = False
    generation: str | None = None
    link: str | None = None


@frozen
class Observed:
    """The provider answered with a run.

    `poll_after_s`: the pause that the provider asked for. `answered_at`: the time of the response by the provider's
    clock (canonical text), comparable only with its other times. `etag`: to be sent with the next poll.
    `is_unchanged`: the response was a 304. `body`: the bytes of a short response; the same bytes mean the same
    observation. `remarks`: what a definition could not read or evaluate in it, as sentences.
    """

    observation: Observation
    poll_after_s: float | None = None
    answered_at: str | None = None
    etag: str | None = None
    is_unchanged: bool = False
    body: bytes | None = None
    remarks: tuple[str, ...] = ()


@frozen
class LastResponse:
    """The last response about a run: a 304 to its `etag`, or the same `body`, stands for its observation."""

    observation: Observation
    etag: str | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class PollFailed:
    """The poll failed. `retry_after_s` is the pause that the provider asked for, `status` its HTTP status if any."""

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after_s: float | None = None


PollResult = Observed | PollFailed


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in a list; no observation if its item cannot be read.

    `needs_detail`: the item lacks fields of a settled run, so a change needs a poll of the run itself.
    """

    provider_run_id: str
    observation: Observation | None
    needs_detail: bool = False


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of a provider's list; `next_cursor` is None on the last page.

    `poll_after_s` and `answered_at` as in `Observed`. `is_newest_first`: what stands behind a run is older than it.
    `remark`: what a definition finds in no item of the page, as a sentence.
    """

    runs: tuple[ListedRun, ...]
    next_cursor: str | None = None
    poll_after_s: float | None = None
    answered_at: str | None = None
    is_newest_first: bool = True
    remark: str | None = None
