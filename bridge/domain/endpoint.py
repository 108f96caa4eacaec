"""An endpoint: a subscriber's URL, the events that it wants, and how its deliveries are signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bridge.domain.event import EventType

PAYLOADS = ("full", "thin")
FORMATS = ("standard", "cloudevents")
SIGNATURES = ("v1", "v1a")
RATE_LIMIT_MIN, RATE_LIMIT_MAX = 0.001, 10_000.0  # deliveries per second; at the least one in 17 minutes


def read_signatures(names: Sequence[object]) -> tuple[str, ...]:
    """The named schemes, each once, in the order in which they are sent. Raises ValueError if `v1` is missing."""
    if unknown := [str(name) for name in names if name not in SIGNATURES]:
        raise ValueError(f"knows no {', '.join(unknown)}; give v1, or v1 and v1a")
    if "v1" not in names:
        raise ValueError("v1 cannot be left out: receivers' libraries verify nothing else; give v1, or v1 and v1a")
    return tuple(name for name in SIGNATURES if name in names)


class EndpointSource(StrEnum):
    """Who made it, which is also how far it is trusted.

    CONFIG: the operator's file (may be private, read-only over the API) · API: made over HTTP ·
    RUN: given with one run (`webhook`), hears only of that run.
    """

    CONFIG = "config"
    API = "api"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One subscriber. `events` None means every type except `run.progressed`; names are exact.

    `payload` is full or thin, `format` standard or cloudevents; `rate_limit` is in deliveries per second; `signature`
    names the schemes that sign its deliveries. `failing_since` is the first failed attempt since the last success;
    nothing is sent before `paused_until`. `fault` says why nothing can be sent to it as it is stored.
    """

    id: str
    url: str
    source: EndpointSource
    events: tuple[EventType, ...] | None = None
    filter: str | None = None
    description: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    ordered: bool = False
    payload: str = "full"
    format: str = "standard"
    rate_limit: float | None = None
    signature: tuple[str, ...] = SIGNATURES[:1]
    run_id: str | None = None
    enabled: bool = True
    disabled_reason: str | None = None
    created_at: datetime | None = None
    failing_since: datetime | None = None
    paused_until: datetime | None = None
    allow_http: bool = False
    fault: str | None = None

    def wants(self, event_type: EventType) -> bool:
        """Whether this endpoint wants events of this type; its `filter` is evaluated separately, on the body."""
        if self.events is None:
            return event_type is not EventType.RUN_PROGRESSED
        return event_type in self.events
