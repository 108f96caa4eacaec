"""What the API answers, as schemas: for the OpenAPI document only. The tests hold every answer against it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from bridge.domain.connection import ConnectionHealth
from bridge.domain.event import EventType
from bridge.domain.run import RunStatus

When = Annotated[datetime, Field(examples=["2026-01-15T10:30:05.120Z"])]
NextCursor = Annotated[str | None, Field(description="Where the next page begins; null when there is none.")]


class FieldProblem(BaseModel):
    """One field at fault and what to do about it."""

    field: str
    message: str


class ProblemAnswer(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem]
    request_id: str | None = None


class ProgressAnswer(BaseModel):
    """How far a run is, in the provider's own units."""

    completed: float
    total: float


class RunErrorAnswer(BaseModel):
    """What the provider says went wrong."""

    message: str
    code: str | None
    step: str | None


class RunData(BaseModel):
    """A run as events tell it."""

    id: str
    connection: str
    provider: str
    provider_run_id: str
    workflow_id: str | None
    status: RunStatus
    provider_status: str | None
    settled: bool
    progress: ProgressAnswer | None
    output: Any
    output_truncated: bool
    error: RunErrorAnswer | None
    created_at: When | None
    started_at: When | None
    finished_at: When | None
    registered_at: When
    observed_at: When | None
    metadata: dict[str, Any]
    tags: list[str]


class RunAnswer(RunData):
    """A run and its polls."""

    polls: int
    last_polled_at: When | None
    next_poll_at: When | None
    next_poll_reason: str | None
    deadline_at: When | None
    overdue: bool


class WebhookAnswer(BaseModel):
    """A one-run webhook; `secret` only when it was added by this request."""

    id: str
    url: str
    secret: str | None


class RegisteredRun(RunAnswer):
    """The run, with the webhook that was asked for."""

    webhook: WebhookAnswer | None = None


class TransitionAnswer(BaseModel):
    """One change of status."""

    at: When
    from_: RunStatus = Field(alias="from")
    to: RunStatus
    provider_status: str | None


class EventData(BaseModel):
    """What happened; for events that concern no run `connection` or `endpoint` names the thing."""

    sequence: int | None
    previous_status: RunStatus | None
    run: RunData | None
    connection: dict[str, Any] | None = None
    endpoint: dict[str, Any] | None = None


class EventAnswer(BaseModel):
    """A recorded fact, as the webhook's body."""

    id: str
    type: EventType
    timestamp: When
    data: EventData


class RunInFull(RunAnswer):
    """A run with all that happened to it."""

    transitions: list[TransitionAnswer]
    events: list[EventAnswer]


class BatchItem(BaseModel):
    """The outcome of one item: `run` or `error`."""

    status: Literal[200, 201, 422]
    run: RegisteredRun | None = None
    error: ProblemAnswer | None = None


class BatchAnswer(BaseModel):
    """The outcomes in the order given."""

    data: list[BatchItem]


class LimitsAnswer(BaseModel):
    """Configured limits; null means learned from the provider's answers."""

    requests_per_second: float | None
    max_in_flight: int | None


class CadenceAnswer(BaseModel):
    """When runs are polled."""

    price: str | None
    target_delay: str | None
    min_interval: str
    max_interval: str
    deadline: str


class ConnectionAnswer(BaseModel):
    """A provider account and how it stands; `state` is what the daemon knows at this moment."""

    name: str
    provider: str
    base_url: str
    health: ConnectionHealth
    reason: str | None
    since: When | None
    limits: LimitsAnswer
    cadence: CadenceAnswer
    state: dict[str, Any]


class CellAnswer(BaseModel):
    """The share of runs that take longer than `from_s` and at most `to_s`."""

    from_s: float
    to_s: float
    share: float


class DistributionAnswer(BaseModel):
    """How long the runs of a workflow are running, as learned, and when such a run is polled. Everything in seconds.

    `cells` leave out 2 % of the runs at either end. `planned_polls_s`: the ages at which a run is polled that goes on,
    up to p99.5; `expected_polls` and `expected_delay_s` are the means over all runs. `price_s` is that of one request.
    """

    workflow_id: str | None
    runs_remembered: float
    median_s: float
    p90_s: float
    p99_s: float
    cells: list[CellAnswer]
    planned_polls_s: list[float]
    expected_polls: float
    expected_delay_s: float
    price_s: float


class ConnectionInFull(ConnectionAnswer):
    """A connection; `distribution` where a `workflow` was asked for."""

    distribution: DistributionAnswer | None = None


class CheckAnswer(BaseModel):
    """What one real call brought."""

    ok: bool
    detail: str
    duration_ms: int


class RunList(BaseModel):
    """A page of runs."""

    data: list[RunAnswer]
    next_cursor: NextCursor


class EventList(BaseModel):
    """A page of the feed."""

    data: list[EventAnswer]
    next_cursor: Annotated[str | None, Field(description="The id of the last event; give it as `after` to go on.")]


class ConnectionList(BaseModel):
    """All connections."""

    data: list[ConnectionAnswer]
    next_cursor: NextCursor


class NodeAnswer(BaseModel):
    """A daemon that shares the database, and how much it has claimed; `lease_expires_at` null on SQLite."""

    id: str
    host: str
    pid: int
    version: str
    started_at: When
    lease_expires_at: When | None
    alive: bool
    runs: int
    deliveries: int


class NodeList(BaseModel):
    """All nodes."""

    data: list[NodeAnswer]
    next_cursor: NextCursor


class LivenessAnswer(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ReadinessAnswer(BaseModel):
    """Whether the daemon can work."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
