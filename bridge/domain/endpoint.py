"""An endpoint: a subscriber's URL with what it wants to hear and how its deliveries are signed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bridge.domain.event import EventType


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
    """One subscriber. `events` None means every type except `run.progressed`; names are exact."""

    id: str
    url: str
    source: EndpointSource
    events: tuple[EventType, ...] | None = None
    filter: str | None = None
    description: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    ordered: bool = False
    payload: str = "full"
    run_id: str | None = None
    enabled: bool = True
    disabled_reason: str | None = None
    created_at: datetime | None = None
    allow_http: bool = False

    def wants(self, event_type: EventType) -> bool:
        """Whether this endpoint asked for such events (its `filter` is judged separately, on the body)."""
        if self.events is None:
            return event_type is not EventType.RUN_PROGRESSED
        return event_type in self.events
