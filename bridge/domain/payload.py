"""The bytes of a delivery whose endpoint asks for another payload or format than the event's own.

Made once, when the delivery is recorded; every attempt and replay sends them. The event id stays the same.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from bridge.domain.endpoint import Endpoint
from bridge.domain.event import Event, encode
from bridge.domain.frozen import frozen
from bridge.domain.run import Json

JSON: Final = "application/json"
CLOUDEVENTS: Final = "application/cloudevents+json"
_THIN_RUN = ("id", "connection", "provider", "provider_run_id", "workflow_id", "status", "settled")


@frozen
class Payload:
    """The bytes of one delivery and their content type."""

    body: bytes
    content_type: str


def payload_for(endpoint: Endpoint, event: Event) -> Payload | None:
    """The bytes for this endpoint; None if it takes the event's own, sent as `application/json`."""
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
