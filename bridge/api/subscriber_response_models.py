"""What the API answers about subscribers: their endpoints, deliveries and replays; schemas, as in `answers`."""

from __future__ import annotations

from pydantic import BaseModel

from bridge.api.response_models import NextCursor, When
from bridge.domain.delivery import DeliveryState, Outcome
from bridge.domain.endpoint import EndpointSource
from bridge.domain.event import EventType
from bridge.domain.replay import ReplayState, ReplayStatus


class EndpointAnswer(BaseModel):
    """An endpoint; the values of its headers are masked. `events` null: all but `run.progressed`.

    `public_keys` verify its v1a signatures. `failing_since`: every attempt since then failed. `paused_until`: it gets
    nothing before, because it asked for that or did not answer.
    """

    id: str
    url: str
    source: EndpointSource
    events: list[EventType] | None
    filter: str | None
    description: str | None
    headers: dict[str, str]
    ordered: bool
    payload: str
    format: str
    rate_limit: float | None
    signature: list[str]
    public_keys: list[str]
    run_id: str | None
    enabled: bool
    disabled_reason: str | None
    failing_since: When | None
    paused_until: When | None
    created_at: When | None


class NewEndpoint(EndpointAnswer):
    """An endpoint as it was made, with the secret that is shown here only."""

    secret: str


class NewSecret(BaseModel):
    """The new signing secret, shown here only; the old one signs until `old_until`. Of a v1a key the public half."""

    id: str
    secret: str | None
    public_key: str | None
    old_until: When


class PingAnswer(BaseModel):
    """The event that was made."""

    event_id: str


class ReplayCount(BaseModel):
    """How many events the selection holds."""

    count: int


class ReplayAnswer(BaseModel):
    """A replay: how many events were selected, and how many of them are on their way or arrived."""

    id: str
    endpoint_id: str
    state: ReplayState
    count: int
    replayed: int
    rate: float
    since: When
    until: When | None
    types: list[EventType] | None
    status: ReplayStatus
    created_at: When
    finished_at: When | None


class EventReplayAnswer(BaseModel):
    """The deliveries that are due now."""

    deliveries: list[str]


class AttemptAnswer(BaseModel):
    """One POST. `response` holds up to 8 KiB of the receiver's answer, null in lists."""

    number: int
    at: When
    outcome: Outcome
    status: int | None
    duration_ms: int
    detail: str | None
    peer: str | None
    phases: dict[str, int]
    response: str | None
    truncated: bool
    manual: bool
    next_attempt_at: When | None


class DeliveryAnswer(BaseModel):
    """One event for one endpoint."""

    id: str
    event_id: str
    event_type: EventType
    endpoint_id: str
    run_id: str | None
    state: DeliveryState
    attempt_count: int
    failure_count: int
    created_at: When
    next_attempt_at: When | None
    settled_at: When | None
    last_outcome: Outcome | None
    last_status: int | None
    manual: bool
    attempts: list[AttemptAnswer]


class EndpointList(BaseModel):
    """A page of endpoints."""

    data: list[EndpointAnswer]
    next_cursor: NextCursor


class DeliveryList(BaseModel):
    """A page of deliveries."""

    data: list[DeliveryAnswer]
    next_cursor: NextCursor


class ReplayList(BaseModel):
    """A page of replays."""

    data: list[ReplayAnswer]
    next_cursor: NextCursor
