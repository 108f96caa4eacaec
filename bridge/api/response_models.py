"""Response bodies about runs, events, connections and nodes: one model per body.

A model validates its body, documents it in OpenAPI and makes its bytes. Unknown values are null, never absent; a field
with a default is left out unless it was set.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, WrapValidator

from bridge.api.ports import LivePoll
from bridge.domain.connection import Connection, ConnectionHealth
from bridge.domain.errors import InvalidInput, Problem
from bridge.domain.event import EventType, run_body
from bridge.domain.failure import FailureKind
from bridge.domain.run import Run, RunStatus
from bridge.domain.timestamps import format_duration, format_instant
from bridge.store.connections import HealthRow

_CURSOR_ID = re.compile(r"[A-Za-z0-9_.~-]{1,150}", re.ASCII)


When = Annotated[
    str | Annotated[datetime, AfterValidator(format_instant)],
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-15T10:30:05.120Z"]}),
]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # as it was: 1 stays 1, 1.0 stays 1.0
NextCursor = Annotated[str | None, Field(description="Where the next page begins; null when there is none.")]
DurationText = Annotated[str, BeforeValidator(format_duration)]


def _instant_text(instant: datetime | None) -> str | None:
    return None if instant is None else format_instant(instant)


class Shown(BaseModel):
    """A body; reads the attributes of a domain value by its own names or by `validation_alias`."""

    model_config = ConfigDict(from_attributes=True, validate_by_name=True, defer_build=True)

    def to_bytes(self) -> bytes:
        """The compact UTF-8 JSON."""
        return self.model_dump_json(by_alias=True, exclude_unset=True, warnings=False).encode()


P = TypeVar("P", bound=Shown)


def page_of(model: type[P], shown: Sequence[Any], limit: int) -> P:
    """A list's body; `shown` holds one more than `limit` where there is a further page."""
    page = list(shown[:limit])
    more = len(shown) > limit
    return model.model_validate({"data": page, "next_cursor": cursor_of(page[-1].id) if more else None})


def cursor_of(item_id: str) -> str:
    """An opaque cursor: continue after this item."""
    return base64.urlsafe_b64encode(item_id.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str | None:
    """The id in a cursor; InvalidInput for anything that was not a `next_cursor`."""
    if cursor is None:
        return None
    try:
        item_id = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        item_id = ""
    if not _CURSOR_ID.fullmatch(item_id):
        raise InvalidInput([Problem("cursor", "not a cursor of this list; give the next_cursor of the page before")])
    return item_id


class FieldProblem(Shown):
    """One field at fault and what to do about it."""

    field: str
    message: str


class ProblemAnswer(Shown):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem]
    request_id: str | None = None


class ProgressAnswer(Shown):
    """How far a run is, in the provider's own units."""

    completed: Number
    total: Number


class RunErrorAnswer(Shown):
    """The error that the provider reported."""

    message: str
    code: str | None
    step: str | None


class RunData(Shown):
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


class LastErrorAnswer(Shown):
    """The latest of `count` failed polls since the last one that could be read."""

    at: When
    kind: FailureKind
    message: str
    count: int


class RunAnswer(RunData):
    """A run and its polls."""

    polls: int
    last_polled_at: When | None
    next_poll_at: When | None
    next_poll_reason: str | None
    last_error: LastErrorAnswer | None
    deadline_at: When | None
    overdue: bool
    link: str | None

    @classmethod
    def of(cls, run: Run, live: LivePoll | None, **more: object) -> Self:
        """Made of `run_shown`."""
        return cls.model_validate(run_shown(run, live, more))


def run_shown(run: Run, live: LivePoll | None, more: Mapping[str, object]) -> dict[str, Any]:
    """The values of a `RunAnswer`: the run as in an event, its polls, and `more`.

    Polls held in memory are fresher than the database's. Registrations send the values as they are: to validate them
    takes as long as to write the run.
    """
    held = None if run.settled else live
    polls = held or run
    error = None if run.settled else polls.last_error
    shown: dict[str, Any] = run_body(run)
    shown["polls"] = polls.polls
    shown["last_polled_at"] = _instant_text(polls.last_polled_at)
    shown["next_poll_at"] = _instant_text(polls.next_poll_at)
    shown["next_poll_reason"] = held.reason if held else None
    shown["last_error"] = error and {
        "at": format_instant(error.at),
        "kind": error.kind.value,
        "message": error.message,
        "count": error.count,
    }
    shown["deadline_at"] = _instant_text(run.deadline_at)
    shown["overdue"] = run.is_overdue
    shown["link"] = run.link
    shown.update(more)
    return shown


class RunRow(RunAnswer):
    """A run in a list."""

    deliveries: dict[str, int] | None = None


class WebhookAnswer(Shown):
    """A one-run webhook; `secret` only when it was added by this request."""

    id: str
    url: str
    secret: str | None


class RegisteredRun(RunAnswer):
    """The run, with the webhook that was asked for."""

    webhook: WebhookAnswer | None = None


class TransitionAnswer(Shown):
    """One change of status."""

    at: When
    from_: RunStatus = Field(validation_alias="from_status", serialization_alias="from")
    to: RunStatus = Field(validation_alias="to_status")
    provider_status: str | None


class EventData(Shown):
    """The content of an event; events that concern no run name a `connection` or an `endpoint`."""

    sequence: int | None
    previous_status: RunStatus | None
    run: RunData | None
    connection: dict[str, Any] | None = None
    endpoint: dict[str, Any] | None = None


class EventAnswer(Shown):
    """A recorded fact, as the webhook's body."""

    id: str
    type: EventType
    timestamp: When
    data: EventData


RecordedEvent = Annotated[EventAnswer, WrapValidator(lambda body, _: body)]  # a recorded body is shown as it is


class DefinitionAnswer(Shown):
    """The definition that reads a provider's answers: where it was found, and the digest of its bytes."""

    name: str
    version: str
    origin: str
    digest: str


class RunInFull(RunAnswer):
    """A run with all that happened to it."""

    transitions: list[TransitionAnswer]
    events: list[RecordedEvent]
    recent_polls: list[When] = Field(description="The latest polls that this node has in memory, oldest first.")
    definition: DefinitionAnswer | None


class BatchItem(Shown):
    """The outcome of one item: `run` or `error`."""

    status: Literal[200, 201, 422]
    run: RegisteredRun | None = None
    error: ProblemAnswer | None = None


class BatchAnswer(Shown):
    """The outcomes in the order given."""

    data: list[BatchItem]


class LimitsAnswer(Shown):
    """Configured limits; null means learned from the provider's answers."""

    requests_per_second: Number | None
    max_in_flight: int | None


class CadenceAnswer(Shown):
    """When runs are polled."""

    price: DurationText | None = Field(validation_alias="price_s")
    target_delay: str | None
    min_interval: DurationText = Field(validation_alias="min_interval_s")
    max_interval: DurationText = Field(validation_alias="max_interval_s")
    deadline: DurationText = Field(validation_alias="deadline_s")


class RemarkAnswer(Shown):
    """Something that the definition could not read in an answer: when last, and how often."""

    message: str
    at: When
    count: int


class CheckAnswer(Shown):
    """The outcome of one real call, and of the same call with a wrong key."""

    ok: bool
    result: Literal["ok", "remark", "wrong"]
    detail: str
    at: When
    duration_ms: int


class ConnectionAnswer(Shown):
    """A provider account and how it stands; `state` is what the daemon knows at this moment."""

    name: str
    provider: str
    base_url: str
    health: ConnectionHealth
    reason: str | None
    since: When | None
    last_error: LastErrorAnswer | None
    last_check: CheckAnswer | None
    last_list_at: When | None
    definition: DefinitionAnswer | None
    remarks: list[RemarkAnswer]
    limits: LimitsAnswer
    cadence: CadenceAnswer
    state: dict[str, Any]

    @classmethod
    def of(cls, connection: Connection, health: HealthRow | None, **more: object) -> Self:
        """A connection without its key; a limit of null is learned from the provider's answers. `more`: the other fields."""
        cadence = CadenceAnswer.model_validate(connection.cadence)
        return cls.model_validate(
            {
                "name": connection.name,
                "provider": connection.provider,
                "base_url": connection.base_url,
                "health": health.health if health else ConnectionHealth.UNKNOWN,
                "reason": health.reason if health else None,
                "since": health.since if health else None,
                "definition": connection.definition,
                "limits": connection,
                "cadence": cadence.model_copy(update={"price": None}) if cadence.target_delay else cadence,
                **more,
            }
        )


class CellAnswer(Shown):
    """The share of runs that take longer than `from_s` and at most `to_s`."""

    from_s: Number
    to_s: Number
    share: Number


class DistributionAnswer(Shown):
    """How long the runs of a workflow are running, as learned, and when such a run is polled. Everything in seconds.

    `cells` leave out 2 % of the runs at either end. `planned_polls_s`: the ages at which a run is polled that goes on,
    up to p99.5; `expected_polls` and `expected_delay_s` are the means over all runs. `price_s` is that of one request.
    """

    workflow_id: str | None
    runs_remembered: Number
    median_s: Number
    p90_s: Number
    p99_s: Number
    cells: list[CellAnswer]
    planned_polls_s: list[Number]
    expected_polls: Number
    expected_delay_s: Number
    price_s: Number


class ConnectionInFull(ConnectionAnswer):
    """A connection; `distribution` where a `workflow` was asked for."""

    distribution: DistributionAnswer | None = None


class RunList(Shown):
    """A page of runs."""

    data: list[RunRow]
    next_cursor: NextCursor


class EventRow(EventAnswer):
    """An event in a list."""

    deliveries: dict[str, int] | None = None


class EventList(Shown):
    """A page of the feed."""

    data: list[EventRow]
    next_cursor: Annotated[str | None, Field(description="The id of the last event: `after` continues with it.")]


class ConnectionList(Shown):
    """All connections."""

    data: Sequence[ConnectionAnswer]
    next_cursor: NextCursor


class NodeAnswer(Shown):
    """A daemon that shares the database, and how much it has claimed; `lease_expires_at` null on SQLite."""

    id: str
    host: str
    pid: int
    version: str
    started_at: When
    lease_expires_at: When | None
    alive: bool = Field(validation_alias="is_alive")
    runs: int
    deliveries: int


class NodeList(Shown):
    """All nodes."""

    data: list[NodeAnswer]
    next_cursor: NextCursor


class LivenessAnswer(Shown):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ReadinessAnswer(Shown):
    """Whether the daemon can work."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
