"""An endpoint: a subscriber's URL, the events that it wants, how its deliveries are signed, and what they contain."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

from pydantic import BaseModel, Field

from bridge.domain import fields
from bridge.domain.event import Event, EventType, encode
from bridge.domain.frozen import frozen
from bridge.domain.run import Json


class EndpointSource(StrEnum):
    """The origin of an endpoint, which also decides how far it is trusted.

    CONFIG: the operator's file (may be private, read-only over the API) · API: made over HTTP ·
    RUN: given with one run (`webhook`), hears only of that run.
    """

    CONFIG = "config"
    API = "api"
    RUN = "run"


class EndpointSettings(BaseModel):
    """The settings that a person may change: in the configuration file, over the API and in the database alike.

    `events` None means every type except `run.progressed`; names are exact. `payload` is full or thin, `format`
    standard or cloudevents; `signature` names the schemes that deliveries are signed with. `trace_context`: pass on the
    trace that a run was registered in.
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
    trace_context: bool = False

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


JSON: Final = "application/json"
CLOUDEVENTS: Final = "application/cloudevents+json"
_THIN_RUN = ("id", "connection", "provider", "provider_run_id", "workflow_id", "status", "settled")


@frozen
class Payload:
    """The bytes of one delivery and their content type."""

    body: bytes
    content_type: str


def payload_for(endpoint: Endpoint, event: Event) -> Payload | None:
    """The bytes for this endpoint; None if it takes the event's own, sent as `application/json`.

    They are made once, when the delivery is recorded; every attempt and replay sends them. The event id stays the same.
    """
    if endpoint.payload == "full" and endpoint.format == "standard":
        return None
    body = json.loads(event.body)
    if endpoint.payload == "thin":
        body = _thin(body)
    if endpoint.format == "cloudevents":
        return Payload(encode(_cloud_event(body)), CLOUDEVENTS)
    return Payload(encode(body), JSON)


def _thin(body: dict[str, Any]) -> dict[str, Any]:
    """The event with its run reduced to what identifies it, and the path on our API to the rest."""
    run = body["data"]["run"]
    if run is None:
        return body
    thin = {name: run[name] for name in _THIN_RUN} | {"url": f"/v1/runs/{run['id']}"}
    return {**body, "data": {**body["data"], "run": thin}}


def _cloud_event(body: dict[str, Any]) -> Json:
    """CloudEvents 1.0, structured mode."""
    data = body["data"]
    run = data["run"]
    event: dict[str, Json] = {
        "specversion": "1.0",
        "id": body["id"],
        "source": _source(data),
        "type": body["type"],
        "time": body["timestamp"],
        "datacontenttype": JSON,
        "data": data,
    }
    return event if run is None else {**event, "subject": run["id"]}


def _source(data: dict[str, Any]) -> str:
    """`/runbridge/<connection>`, or `/runbridge` if the event concerns none."""
    connection = data["run"]["connection"] if data["run"] else (data.get("connection") or {}).get("name")
    return f"/runbridge/{quote(connection, safe='')}" if connection else "/runbridge"
