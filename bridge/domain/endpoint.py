"""An endpoint: a subscriber's URL, the events that it wants, and how its deliveries are signed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from bridge.domain import fields
from bridge.domain.event import EventType


class EndpointSource(StrEnum):
    """Who made it, which is also how far it is trusted.

    CONFIG: the operator's file (may be private, read-only over the API) · API: made over HTTP ·
    RUN: given with one run (`webhook`), hears only of that run.
    """

    CONFIG = "config"
    API = "api"
    RUN = "run"


class EndpointSettings(BaseModel):
    """What a person may set: in the configuration file, over the API and in the database alike.

    `events` None means every type except `run.progressed`; names are exact. `payload` is full or thin, `format`
    standard or cloudevents; `signature` names the schemes that deliveries are signed with.
    """

    model_config = fields.STRICT

    url: str
    events: fields.EventNames | None = None
    filter: fields.FilterText | None = None
    description: fields.Description | None = None
    headers: fields.CustomHeaders = Field(default_factory=dict, repr=False)
    ordered: bool = False
    payload: fields.Payload = "full"
    format: fields.Format = "standard"
    rate_limit: fields.RateLimit | None = None
    signature: fields.Signatures = fields.SIGNATURES[:1]

    def settings(self) -> dict[str, Any]:
        """The settings by name, without what a subclass adds."""
        return {name: getattr(self, name) for name in EndpointSettings.model_fields}


class Endpoint(EndpointSettings):
    """One subscriber and its state.

    `failing_since` is the first failed attempt since the last success; nothing is sent before `paused_until`.
    `fault` says why nothing can be sent to it as it is stored.
    """

    id: str
    source: EndpointSource
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
