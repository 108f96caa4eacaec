"""The `webhooks` of the OpenAPI document: what a receiver gets for each type of event."""

from __future__ import annotations

from typing import Any, Final

from bridge.domain.endpoint import CLOUDEVENTS, JSON
from bridge.domain.event import EventType

_SUMMARIES: Final = {
    EventType.RUN_STARTED: "A run is first seen running",
    EventType.RUN_PROGRESSED: "The progress of a run moved; sent only to endpoints that name this type",
    EventType.RUN_WAITING: "A run waits for a person",
    EventType.RUN_RESUMED: "A run that waited for a person goes on",
    EventType.RUN_OVERDUE: "A run takes longer than its workflow normally does",
    EventType.RUN_FINISHED: "A run is settled, whatever the outcome; once, and last",
    EventType.CONNECTION_FAILING: "An account at a provider stopped answering",
    EventType.CONNECTION_RECOVERED: "An account at a provider answers again",
    EventType.ENDPOINT_FAILING: "An endpoint accepts nothing and will be switched off",
    EventType.ENDPOINT_DISABLED: "An endpoint was switched off",
    EventType.BRIDGE_PING: "A test, on request",
}
_HEADERS: Final = {
    "webhook-id": "The id of the event; the same for every attempt, endpoint and replay.",
    "webhook-timestamp": "Unix seconds of this attempt.",
    "webhook-signature": (
        "`v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`, one for each live secret, separated by spaces; "
        "`v1a,` and an ed25519 signature where the endpoint has one."
    ),
}
_CLOUD_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The same in the structured mode of CloudEvents 1.0, to endpoints with `format` cloudevents.",
    "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "data"],
    "properties": {
        "specversion": {"const": "1.0", "description": "The version of CloudEvents."},
        "id": {"type": "string", "description": "The id of the event."},
        "source": {"type": "string", "description": "`/runbridge/CONNECTION`, or `/runbridge` without one."},
        "type": {"type": "string", "description": "The type of the event."},
        "time": {"type": "string", "format": "date-time", "description": "When the event was recorded."},
        "datacontenttype": {"const": JSON, "description": "What `data` is."},
        "subject": {"type": "string", "description": "The id of the run; absent if the event concerns none."},
        "data": {"type": "object", "description": "As in an event of the standard format."},
    },
}
_DESCRIPTION: Final = (
    "Signed according to Standard Webhooks 1.0.0. To endpoints with `payload` thin, `data.run` has only its ids, its "
    "status, and `url`, the path of the rest on this API."
)


def webhooks() -> dict[str, Any]:
    """One operation for each type of event."""
    return {event_type.value: {"post": _operation(event_type)} for event_type in EventType}


def _operation(event_type: EventType) -> dict[str, Any]:
    return {
        "operationId": event_type.value.replace(".", "_"),
        "summary": _SUMMARIES[event_type],
        "description": _DESCRIPTION,
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/EventAnswer"}}, CLOUDEVENTS: {"schema": _CLOUD_EVENT}},
        },
        "responses": {
            "2XX": {"description": "The receiver has taken the event."},
            "410": {"description": "The receiver wants nothing any more; the endpoint is switched off."},
            "default": {"description": "Any other answer, a redirect included, is a failure: the event is sent again."},
        },
    }  # fmt: skip
