"""Request bodies and query parameters: each field is checked, unknown ones are refused.

Models are validated with `Checks` as context and go no further than the handlers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from bridge.api.ports import Bridge
from bridge.domain import fields
from bridge.domain.clock import Clock
from bridge.domain.connection import CadenceSettings, Connection
from bridge.domain.endpoint import EndpointSettings
from bridge.domain.errors import InvalidInput
from bridge.domain.event import EventType, encode
from bridge.domain.fields import Printable, one_of
from bridge.domain.frozen import frozen
from bridge.domain.replay import RATE_DEFAULT, RATE_MAX, RATE_MIN, ReplayStatus
from bridge.domain.run import CadenceOverrides, RunStatus, canonical_run_id
from bridge.domain.suggestions import unknown
from bridge.domain.timestamps import format_duration, parse_instant

BATCH_RUNS_MAX: Final = 1000
METADATA_BYTES_MAX: Final = 16 * 1024
WAIT_MAX_S: Final = 300.0
_CADENCE_KEYS = ("price", "target_delay", "min_interval", "max_interval")
_NO_CADENCE: Final = dict.fromkeys(_CADENCE_KEYS)


@frozen
class Checks:
    """The facts that validation needs; passed as pydantic's context."""

    bridge: Bridge
    connections: Mapping[str, Connection]
    clock: Clock


def checks_of(info: ValidationInfo) -> Checks:
    """The context that every request is validated with."""
    if not isinstance(info.context, Checks):
        raise TypeError("requests are validated with a Checks as context")
    return info.context


@dataclass(frozen=True, slots=True)
class Deadline:
    """Either an instant or seconds from registration."""

    at: datetime | None = None
    after_s: float | None = None


def _read_instant(value: object) -> datetime:
    try:
        return parse_instant(value if isinstance(value, str) else "")
    except (ValueError, OverflowError):
        raise ValueError("expected an instant with its offset, such as 2026-01-15T10:30:00Z") from None


def _read_deadline(value: object, info: ValidationInfo) -> Deadline:
    text = value if isinstance(value, str) else ""
    if re.search(r"\d[-:T]", text):
        at = _read_instant(text)
        if at <= checks_of(info).clock.now():
            raise ValueError("this instant has already passed")
        return Deadline(at=at)
    try:
        after_s = fields.read_duration(text)
    except ValueError as error:
        if "at most" in str(error):
            raise
        raise ValueError("expected a duration such as 2h or 30d, or an instant such as 2026-01-15T10:30:00Z") from None
    if after_s <= 0:
        raise ValueError("must be longer than nothing")
    return Deadline(after_s=after_s)


def _check_target(url: str, info: ValidationInfo) -> str:
    try:
        return checks_of(info).bridge.check_target(url)
    except InvalidInput as error:
        raise ValueError("; ".join(problem.message for problem in error.problems)) from None


def _canonical(value: object) -> object:
    return canonical_run_id(value) if isinstance(value, str) else value


def _check_metadata_key(key: str) -> str:
    if '"' in key or "\\" in key:
        raise ValueError("a key may hold no quotes and no backslashes here")
    return key


def _check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(encode(metadata)) > METADATA_BYTES_MAX:
        raise ValueError(f"may take at most {METADATA_BYTES_MAX} bytes as JSON")
    return metadata


EmptyIsAbsent = BeforeValidator(lambda value: value or None)
Position = Annotated[str, Field(max_length=200), Printable]
Name = Annotated[str, Field(min_length=1, max_length=200), Printable]
ProviderId = Annotated[str, Field(min_length=1, max_length=512), Printable]
ProviderRunId = Annotated[ProviderId, BeforeValidator(_canonical)]
Tag = Annotated[str, Field(min_length=1, max_length=100), Printable]
MetadataKey = Annotated[str, Field(min_length=1, max_length=200), Printable, AfterValidator(_check_metadata_key)]
Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]
StatusName = Annotated[RunStatus, BeforeValidator(lambda value: RunStatus(one_of(value, RunStatus)))]
ReplayStatusName = Annotated[ReplayStatus, BeforeValidator(lambda value: ReplayStatus(one_of(value, ReplayStatus)))]
Instant = Annotated[datetime, PlainValidator(_read_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
DeadlineText = Annotated[
    Deadline,
    PlainValidator(_read_deadline),
    WithJsonSchema({"type": "string", "examples": ["2h", "2030-01-15T10:30:00Z"]}),
]
TargetUrl = Annotated[
    str,
    Field(min_length=1, max_length=2048),
    AfterValidator(_check_target),
    WithJsonSchema({"type": "string", "format": "uri"}),
]


class Body(BaseModel):
    """A JSON object with known keys only."""

    model_config = ConfigDict(**fields.STRICT, defer_build=True)  # most are never used: time and memory at the start


class Query(BaseModel):
    """Query parameters, known ones only."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )


class NoBody(Body):
    """Nothing, or `{}`."""


class NoQuery(Query):
    """No parameters."""


class SessionBody(Body):
    """Either a `token` of the configuration, or the secret of a one-time `link`."""

    token: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(default=None, repr=False)
    link: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(default=None, repr=False)


class CadenceBody(Body):
    """When to poll; each key overrides the connection's."""

    price: fields.Price | None = None
    target_delay: fields.TargetDelay | None = None
    min_interval: fields.Interval | None = None
    max_interval: fields.Interval | None = None


class WebhookBody(Body):
    """A one-run endpoint. Without `secret` one is made and shown once."""

    url: TargetUrl
    events: fields.EventNames = (EventType.RUN_FINISHED,)
    secret: fields.SigningSecret | None = Field(default=None, repr=False)
    headers: fields.CustomHeaders = Field(default_factory=dict, repr=False)
    trace_context: bool = False


class TriggerBody(Body):
    """The workflow to start at the provider; further keys are the provider's own and are passed on."""

    model_config = ConfigDict(extra="allow")

    workflow_id: ProviderId
    inputs: dict[str, Any] = Field(default_factory=dict)


class RunBody(CadenceBody):
    """A run to watch: one that exists (`provider_run_id`) or one to start (`trigger`)."""

    connection: Name
    trigger: TriggerBody | None = None
    provider_run_id: Annotated[ProviderRunId | None, Field(validate_default=True)] = None
    workflow_id: ProviderId | None = None
    metadata: Metadata | None = None
    tags: Annotated[list[Tag], Field(max_length=20)] | None = None
    deadline: DeadlineText | None = None
    rewatch: bool = False
    webhook: WebhookBody | None = None
    cadence: Annotated[CadenceBody | None, Field(validate_default=True)] = None

    @field_validator("connection")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        known = checks_of(info).connections
        if value not in known:
            raise ValueError(unknown("connection", value, list(known)))
        return value

    @field_validator("provider_run_id")
    @classmethod
    def _either(cls, value: str | None, info: ValidationInfo) -> str | None:
        given = info.data  # which makes a dictionary each time
        triggers = given.get("trigger") is not None
        if value is not None and triggers:
            raise ValueError("give either this or trigger, not both")
        if value is None and not triggers and "trigger" in given:
            raise ValueError("is required (or trigger, to start a run)")
        if value is not None and "connection" in given:
            fault = checks_of(info).bridge.check_run_id(given["connection"], value)
            if fault:
                raise ValueError(fault)
        return value

    @field_validator("cadence")
    @classmethod
    def _fits(cls, value: CadenceBody | None, info: ValidationInfo) -> CadenceBody | None:
        given = info.data
        own = {key: given.get(key) for key in _CADENCE_KEYS}
        for key in _CADENCE_KEYS if value else ():
            if own[key] is not None and getattr(value, key) is not None:
                raise ValueError(f"{key} is given twice, here and beside it; leave one out")
            own[key] = getattr(value, key) if own[key] is None else own[key]
        if own != _NO_CADENCE:
            connection = checks_of(info).connections.get(given.get("connection", ""))
            _check_cadence(_overrides(own), connection.cadence if connection else CadenceSettings())
        return value

    @property
    def cadence_overrides(self) -> CadenceOverrides | None:
        """The cadence that this run overrides, from either place; None if nothing."""
        if self.cadence is None and self.model_fields_set.isdisjoint(_CADENCE_KEYS):
            return None
        own = {key: getattr(self, key) for key in _CADENCE_KEYS}
        if self.cadence is not None:
            own = {key: getattr(self.cadence, key) if value is None else value for key, value in own.items()}
        return None if own == _NO_CADENCE else _overrides(own)


def _overrides(own: dict[str, Any]) -> CadenceOverrides:
    return CadenceOverrides(own["price"], own["target_delay"], own["min_interval"], own["max_interval"])


def _check_cadence(own: CadenceOverrides, base: CadenceSettings) -> None:
    if own.price_s is not None and own.target_delay is not None:
        raise ValueError("give either price or target_delay, not both")
    settings = base.overridden_by(own)
    if settings.min_interval_s > settings.max_interval_s:
        least, most = format_duration(settings.min_interval_s), format_duration(settings.max_interval_s)
        raise ValueError(f"min_interval must not exceed max_interval (in effect: {least} and {most})")


class BatchBody(Body):
    """Runs to watch; each is judged by itself."""

    runs: Annotated[list[Any], Field(max_length=BATCH_RUNS_MAX)]


class EndpointBody(EndpointSettings):
    """A subscriber. Without `events` it hears everything but `run.progressed`."""

    url: TargetUrl
    secret: fields.SigningSecret | None = Field(default=None, repr=False)


def _without_defaults(schema: dict[str, Any]) -> None:
    """A client that fills in defaults would change what its caller left out."""
    for part in schema["properties"].values():
        part.pop("default", None)


class EndpointPatch(EndpointSettings):
    """The settings to change; those left out stay, null removes one. The secret is changed by rotate-secret."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    url: TargetUrl = ""


class FilterTestBody(Body):
    """A filter to try on the newest events, of these types only if named."""

    filter: fields.FilterText
    types: fields.EventNames | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class AlertTestBody(Body):
    """The channels to try; all of them if none is named."""

    channels: Annotated[list[Annotated[str, Field(max_length=64)]] | None, Field(min_length=1, max_length=100)] = None


class RotateBody(Body):
    """A new signing secret, made if none is given; the old one goes on signing for `overlap` (0 to 7 d).

    `signature` v1a: a new ed25519 key instead, always made here.
    """

    signature: fields.SignatureName = "v1"
    secret: fields.SigningSecret | None = Field(default=None, repr=False)
    overlap: Annotated[fields.Duration, fields.between("0s", "7d")] = 86400.0


class EndpointReplayBody(Body):
    """Events to send to this endpoint again; `status` selects by their delivery there, `rate` is events a second."""

    since: Instant
    until: Instant | None = None
    types: fields.EventNames | None = None
    status: ReplayStatusName | None = None
    rate: Annotated[float, Field(ge=RATE_MIN, le=RATE_MAX)] = RATE_DEFAULT
    dry_run: bool = False


class EventReplayBody(Body):
    """`endpoint`: send to this one only."""

    endpoint: Name | None = None


class PageQuery(Query):
    """One page of a list; `cursor` is the `next_cursor` of the page before."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[Annotated[str, Field(max_length=200)] | None, EmptyIsAbsent] = None


class WaitQuery(Query):
    """`timeout` in seconds."""

    timeout: Annotated[float, Field(ge=0, le=WAIT_MAX_S)] = 60.0


class ConnectionQuery(Query):
    """`workflow`: show what was learned of this one; empty for the runs without any."""

    workflow: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, validation_alias=AliasChoices("workflow", "workflow_id")
    )


class EndpointsQuery(PageQuery):
    """`one_run`: list the webhooks of single runs as well."""

    one_run: bool = False


EVENT_ORDERS: Final = ("oldest", "newest")


class EventsQuery(Query):
    """The pull feed behind the event `after`; with `order` newest, a list that goes back from there in time."""

    after: Annotated[Position | None, EmptyIsAbsent] = None
    cursor: Annotated[Position | None, EmptyIsAbsent] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    type: list[fields.EventName] = Field(default_factory=list)
    run_id: Name | None = None
    order: Annotated[str, fields.choice(EVENT_ORDERS), Field(json_schema_extra={"enum": [*EVENT_ORDERS]})] = "oldest"
    deliveries: bool = False


class StreamQuery(Query):
    """Where the stream starts (by default with the next event) and which events it holds."""

    after: Name | None = None
    type: list[fields.EventName] = Field(default_factory=list)
    run_id: Name | None = None
    changes: bool = False
