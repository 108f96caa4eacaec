"""Field types shared by the configuration and the API: each reads one value, or raises a ValueError with the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from bridge.domain.custom_headers import check_headers
from bridge.domain.event import EventType
from bridge.domain.filter import FILTER_CHARS_MAX
from bridge.domain.filter_check import check_filter
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import secret_key
from bridge.domain.suggestions import closest
from bridge.domain.timestamps import format_duration, parse_duration

STRICT: Final = ConfigDict(
    strict=True,
    frozen=True,
    extra="forbid",
    allow_inf_nan=False,
    arbitrary_types_allowed=True,
    hide_input_in_errors=True,
)
DURATION_MAX_S: Final = 3650 * 86400.0  # ten years: beyond it the calendar ends before the deadline
MASK: Final = "****"
PAYLOADS: Final = ("full", "thin")
FORMATS: Final = ("standard", "cloudevents")
SIGNATURES: Final = ("v1", "v1a")
RATE_LIMIT_MIN, RATE_LIMIT_MAX = 0.001, 10_000.0  # deliveries per second; at the least one in 17 minutes
_SHOWN_MAX: Final = 20  # words, where one of them is close to what was given
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)%", re.ASCII)
_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_of(value: object, known: Iterable[str]) -> str:
    """`value` if it is a member of `known`; otherwise a ValueError with the nearest member."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return str(value)
    meant = None
    if isinstance(value, str):
        meant = closest(value, known) or next((w for w in known if sorted(w) == sorted(value[:200].lower())), None)
    if meant and len(known) > _SHOWN_MAX:
        raise ValueError(f"not one of the {len(known)} that there are; did you mean `{meant}`?")
    raise ValueError(f"expected one of {', '.join(known)}" + (f"; did you mean `{meant}`?" if meant else ""))


def choice(known: Iterable[str]) -> BeforeValidator:
    """A field that takes one of the known words."""
    return BeforeValidator(lambda value: one_of(value, known))


def read_duration(value: object) -> float:
    """Seconds in a text such as `250ms`."""
    if not isinstance(value, str):
        message = 'expected a duration such as "250ms", "2s", "5m", "2h" or "30d", in quotes and with its unit'
        raise ValueError(message)  # noqa: TRY004 - pydantic collects ValueErrors
    seconds = parse_duration(value)
    if seconds > DURATION_MAX_S:
        raise ValueError(f"must be at most {format_duration(DURATION_MAX_S)}")
    return seconds


def between(least: str, most: str) -> AfterValidator:
    """Bounds of a duration, both included."""
    low_s, high_s = parse_duration(least), parse_duration(most)

    def check(seconds: float) -> float:
        if not low_s <= seconds <= high_s:
            raise ValueError(f"must lie between {least} and {most}")
        return seconds

    return AfterValidator(check)


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
    raise ValueError('expected a duration such as "2s" or a share of the run\'s duration such as "5%"')


def check_printable(text: str) -> str:
    """Text without control characters, on one line."""
    if _CONTROL.search(text):
        raise ValueError("may hold no control characters")
    return text


def _without_repeats(events: tuple[EventType, ...]) -> tuple[EventType, ...]:
    if not events:
        raise ValueError("an empty list would never hear anything; leave the key out to get every type")
    return tuple(dict.fromkeys(events))


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    if problems := check_headers(headers):
        raise ValueError("; ".join(f"{problem.field!r} {problem.message}" for problem in problems))
    if MASK in headers.values():
        raise ValueError(f"{MASK} stands for a value that is not shown; give the value itself")
    return headers


def _check_filter(expression: str) -> str:
    check_filter(expression)
    return expression


def _read_secret(value: object) -> Secret:
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str):
        raise ValueError("expected text that starts with whsec_")  # noqa: TRY004 - pydantic collects ValueErrors
    secret_key(text)
    return Secret(text)


def _read_signatures(names: object) -> tuple[str, ...]:
    """The schemes named, each once, in the order in which they are sent."""
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise ValueError('expected a list such as ["v1", "v1a"]')  # noqa: TRY004 - pydantic collects ValueErrors
    if unknown := [str(name) for name in names if name not in SIGNATURES]:
        raise ValueError(f"knows no {', '.join(unknown)}; give v1, or v1 and v1a")
    if "v1" not in names:
        raise ValueError("v1 cannot be left out: receivers' libraries verify nothing else; give v1, or v1 and v1a")
    return tuple(name for name in SIGNATURES if name in names)


Lax = Field(strict=False)  # a list becomes a tuple
Printable = AfterValidator(check_printable)
_DURATION_SCHEMA = WithJsonSchema({"type": "string", "examples": ["250ms", "5m", "24h"]})
_PRICE_SCHEMA = WithJsonSchema({"type": "string", "examples": ["500ms", "2s"]})

Duration = Annotated[float, BeforeValidator(read_duration), _DURATION_SCHEMA]
Interval = Annotated[float, BeforeValidator(read_duration), between("10ms", "3650d"), _DURATION_SCHEMA]
Price = Annotated[float, BeforeValidator(read_duration), between("1ms", "1d"), _PRICE_SCHEMA]
TargetDelay = Annotated[str, BeforeValidator(_read_target_delay), Field(examples=["2s", "5%"])]

EventName = Annotated[EventType, BeforeValidator(lambda value: EventType(one_of(value, EventType)))]
EventNames = Annotated[
    tuple[EventName, ...], Lax, AfterValidator(_without_repeats), Field(json_schema_extra={"minItems": 1})
]
FilterText = Annotated[str, Field(min_length=1, max_length=FILTER_CHARS_MAX), AfterValidator(_check_filter)]
Description = Annotated[str, Field(min_length=1, max_length=1024), Printable]
CustomHeaders = Annotated[dict[str, str], Field(max_length=50), AfterValidator(_check_headers)]
Payload = Annotated[str, choice(PAYLOADS), Field(json_schema_extra={"enum": [*PAYLOADS]})]
Format = Annotated[str, choice(FORMATS), Field(json_schema_extra={"enum": [*FORMATS]})]
RateLimit = Annotated[float, Field(ge=RATE_LIMIT_MIN, le=RATE_LIMIT_MAX, description="Deliveries per second")]
SignatureName = Annotated[str, choice(SIGNATURES), Field(json_schema_extra={"enum": [*SIGNATURES]})]
Signatures = Annotated[
    tuple[str, ...],
    BeforeValidator(_read_signatures),
    WithJsonSchema({"type": "array", "items": {"enum": [*SIGNATURES]}, "contains": {"const": "v1"}}),
]
SigningSecret = Annotated[
    Secret, PlainValidator(_read_secret), WithJsonSchema({"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]+=*$"})
]
