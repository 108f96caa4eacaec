"""The kinds of fields that requests are made of: text to a plain value, or a sentence with the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema

from bridge.api.ports import Bridge
from bridge.domain.connection import Connection
from bridge.domain.custom_headers import check_headers
from bridge.domain.delivery import DeliveryState
from bridge.domain.endpoint import FORMATS, PAYLOADS, RATE_LIMIT_MAX, RATE_LIMIT_MIN, SIGNATURES, read_signatures
from bridge.domain.errors import InvalidInput
from bridge.domain.event import EventType, encode
from bridge.domain.filter import FILTER_CHARS_MAX, compile_filter
from bridge.domain.replay import ReplayStatus
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import secret_key
from bridge.domain.suggestions import closest
from bridge.domain.timestamps import format_duration, parse_duration, parse_instant

DURATION_MAX_S = 3650 * 86400.0  # ten years: beyond it the calendar ends before the deadline
METADATA_BYTES_MAX = 16 * 1024
MASK = "****"
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)%", re.ASCII)
_UNPRINTABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Checks:
    """What validating a request asks of the world: handed in as pydantic's context."""

    bridge: Bridge
    connections: Mapping[str, Connection]
    now: datetime


@dataclass(frozen=True, slots=True)
class Deadline:
    """Either an instant or seconds from registration."""

    at: datetime | None = None
    after_s: float | None = None


def checks_of(info: ValidationInfo) -> Checks:
    """The context that every request is validated with."""
    if not isinstance(info.context, Checks):
        raise TypeError("requests are validated with a Checks as context")
    return info.context


def read_duration(value: object) -> float:
    """Seconds in a text such as `2h`."""
    seconds = parse_duration(value if isinstance(value, str) else "")
    if seconds > DURATION_MAX_S:
        raise ValueError(f"must be at most {format_duration(DURATION_MAX_S)}")
    return seconds


def between(least_s: float, most_s: float) -> AfterValidator:
    """Bounds of a duration in seconds, both included."""

    def check(seconds: float) -> float:
        if not least_s <= seconds <= most_s:
            raise ValueError(f"must lie between {format_duration(least_s)} and {format_duration(most_s)}")
        return seconds

    return AfterValidator(check)


def _read_instant(value: object) -> datetime:
    try:
        return parse_instant(value if isinstance(value, str) else "")
    except (ValueError, OverflowError):
        raise ValueError("expected an instant with its offset, such as 2026-01-15T10:30:00Z") from None


def _read_deadline(value: object, info: ValidationInfo) -> Deadline:
    text = value if isinstance(value, str) else ""
    if re.search(r"\d[-:T]", text):
        at = _read_instant(text)
        if at <= checks_of(info).now:
            raise ValueError("this instant has already passed")
        return Deadline(at=at)
    try:
        after_s = read_duration(text)
    except ValueError as error:
        if "at most" in str(error):
            raise
        raise ValueError("expected a duration such as 2h or 30d, or an instant such as 2026-01-15T10:30:00Z") from None
    if after_s <= 0:
        raise ValueError("must be longer than nothing")
    return Deadline(after_s=after_s)


def _read_target_delay(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    percent = _PERCENT.fullmatch(text)
    if percent and 0 < float(percent[1]) <= 100:
        return text
    try:
        if read_duration(text) > 0:
            return text
    except ValueError:
        pass
    raise ValueError("expected a duration such as 2s, or a share of the run's duration such as 5%")


def _read_event(value: object) -> EventType:
    return EventType(_one_of(value, [member.value for member in EventType]))


def _read_status(value: object) -> RunStatus:
    return RunStatus(_one_of(value, [member.value for member in RunStatus]))


def _read_replay_status(value: object) -> ReplayStatus:
    return ReplayStatus(_one_of(value, [member.value for member in ReplayStatus]))


def _one_of(value: object, known: list[str]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, one of {', '.join(known)}")  # noqa: TRY004 - pydantic collects ValueErrors
    if value in known:
        return value
    meant = closest(value, known)
    raise ValueError(f"expected one of {', '.join(known)}" + (f"; did you mean `{meant}`?" if meant else ""))


def _choice(known: list[str]) -> BeforeValidator:
    return BeforeValidator(lambda value: _one_of(value, known))


def _without_repeats(events: list[EventType]) -> list[EventType]:
    if not events:
        raise ValueError("an empty list would never hear anything; leave it out to get every type")
    return list(dict.fromkeys(events))


def _read_secret(value: object) -> Secret:
    if not isinstance(value, str):
        raise ValueError("expected text that starts with whsec_")  # noqa: TRY004 - pydantic collects ValueErrors
    secret_key(value)
    return Secret(value)


def _check_target(url: str, info: ValidationInfo) -> str:
    try:
        return checks_of(info).bridge.check_target(url)
    except InvalidInput as error:
        raise ValueError("; ".join(problem.message for problem in error.problems)) from None


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    if problems := check_headers(headers):
        raise ValueError("; ".join(f"{problem.field!r} {problem.message}" for problem in problems))
    if MASK in headers.values():
        raise ValueError(f"{MASK} stands for a value that is not shown; give the value itself")
    return headers


def _check_filter(expression: str) -> str:
    compile_filter(expression)
    return expression


def _check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(encode(metadata)) > METADATA_BYTES_MAX:
        raise ValueError(f"may take at most {METADATA_BYTES_MAX} bytes as JSON")
    return metadata


def _check_printable(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise ValueError("may hold no control characters")
    return text


def _read_signatures(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError('expected a list such as ["v1", "v1a"]')  # noqa: TRY004 - pydantic collects ValueErrors
    return list(read_signatures(value))


_STATES = [member.value for member in DeliveryState]

EmptyIsAbsent = BeforeValidator(lambda value: value or None)
Position = Annotated[str, Field(max_length=200), AfterValidator(_check_printable)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_printable)]
ProviderId = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_check_printable)]
Tag = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_printable)]
Description = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_check_printable)]
Payload = Annotated[str, _choice([*PAYLOADS]), Field(json_schema_extra={"enum": [*PAYLOADS]})]
Format = Annotated[str, _choice([*FORMATS]), Field(json_schema_extra={"enum": [*FORMATS]})]
RateLimit = Annotated[float, Field(ge=RATE_LIMIT_MIN, le=RATE_LIMIT_MAX, description="Deliveries per second")]
SignatureName = Annotated[str, _choice([*SIGNATURES]), Field(json_schema_extra={"enum": [*SIGNATURES]})]
Signature = Annotated[
    list[str],
    PlainValidator(_read_signatures),
    WithJsonSchema({"type": "array", "items": {"enum": [*SIGNATURES]}, "contains": {"const": "v1"}}),
]
StateName = Annotated[str, _choice(_STATES), Field(json_schema_extra={"enum": [*_STATES]})]

_DURATION_SCHEMA = WithJsonSchema({"type": "string", "examples": ["250ms", "5m", "24h"]})
_PRICE_SCHEMA = WithJsonSchema({"type": "string", "examples": ["500ms", "2s"]})

Duration = Annotated[float, BeforeValidator(read_duration), _DURATION_SCHEMA]
Interval = Annotated[float, BeforeValidator(read_duration), between(0.01, DURATION_MAX_S), _DURATION_SCHEMA]
Price = Annotated[float, BeforeValidator(read_duration), between(0.001, 86400), _PRICE_SCHEMA]
TargetDelay = Annotated[str, BeforeValidator(_read_target_delay), Field(examples=["2s", "5%"])]
Instant = Annotated[datetime, PlainValidator(_read_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
DeadlineText = Annotated[
    Deadline,
    PlainValidator(_read_deadline),
    WithJsonSchema({"type": "string", "examples": ["2h", "2030-01-15T10:30:00Z"]}),
]
EventName = Annotated[EventType, BeforeValidator(_read_event)]
EventNames = Annotated[list[EventName], AfterValidator(_without_repeats), Field(min_length=1)]
StatusName = Annotated[RunStatus, BeforeValidator(_read_status)]
ReplayStatusName = Annotated[ReplayStatus, BeforeValidator(_read_replay_status)]
SigningSecret = Annotated[
    Secret, PlainValidator(_read_secret), WithJsonSchema({"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]+=*$"})
]
TargetUrl = Annotated[
    str,
    Field(min_length=1, max_length=2048),
    AfterValidator(_check_target),
    WithJsonSchema({"type": "string", "format": "uri"}),
]
CustomHeaders = Annotated[dict[str, str], Field(max_length=50), AfterValidator(_check_headers)]
FilterText = Annotated[str, Field(min_length=1, max_length=FILTER_CHARS_MAX), AfterValidator(_check_filter)]
Metadata = Annotated[dict[str, Any], AfterValidator(_check_metadata)]
