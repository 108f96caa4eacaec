"""The bytes of a delivery where an endpoint wants others than the event's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bridge.cli.trigger import sample_event
from bridge.domain.endpoint import Endpoint, EndpointSource, payload_for
from bridge.domain.event import EventType, other_event

NOW = datetime(2026, 1, 15, tzinfo=UTC)
RUN_EVENTS = [t for t in EventType if t.value.startswith("run.")]


def endpoint(**more: object) -> Endpoint:
    return Endpoint(id="ep_1", url="https://app.example.org", source=EndpointSource.API, **more)  # type: ignore[arg-type]


def test_the_default_is_the_events_own_bytes() -> None:
    assert payload_for(endpoint(), sample_event(EventType.RUN_FINISHED)) is None


@pytest.mark.parametrize("event_type", RUN_EVENTS)
def test_thin_leaves_of_the_run_what_names_it_and_where_the_rest_is(event_type: EventType) -> None:
    event = sample_event(event_type)
    full = json.loads(event.body)
    payload = payload_for(endpoint(payload="thin"), event)
    assert payload is not None
    assert payload.content_type == "application/json"
    thin = json.loads(payload.body)
    run = full["data"]["run"]
    names = ("id", "connection", "provider", "provider_run_id", "workflow_id", "status", "settled")
    assert thin["data"].pop("run") == {name: run[name] for name in names} | {"url": f"/v1/runs/{run['id']}"}
    del full["data"]["run"]
    assert thin == full


@pytest.mark.parametrize("event_type", [t for t in EventType if t not in RUN_EVENTS])
def test_thin_says_the_same_of_what_concerns_no_run(event_type: EventType) -> None:
    event = sample_event(event_type)
    payload = payload_for(endpoint(payload="thin"), event)
    assert payload is not None
    assert payload.body == event.body


@pytest.mark.parametrize("event_type", list(EventType))
@pytest.mark.parametrize("payload", ["full", "thin"])
def test_cloudevents_are_structured_mode_with_our_id_and_type(event_type: EventType, payload: str) -> None:
    event = sample_event(event_type)
    made = payload_for(endpoint(format="cloudevents", payload=payload), event)
    assert made is not None
    assert made.content_type == "application/cloudevents+json"
    sent, own = json.loads(made.body), json.loads(event.body)
    assert (sent["specversion"], sent["datacontenttype"]) == ("1.0", "application/json")
    assert (sent["id"], sent["type"], sent["time"]) == (event.id, event_type.value, own["timestamp"])
    assert all(isinstance(sent[name], str) and sent[name] for name in ("id", "source", "specversion", "type"))
    assert ("subject" in sent) == (own["data"]["run"] is not None)
    if payload == "full":
        assert sent["data"] == own["data"]


@pytest.mark.parametrize(
    ("event_type", "details", "source"),
    [
        (EventType.CONNECTION_FAILING, {"connection": {"name": "a b/c"}}, "/runbridge/a%20b%2Fc"),
        (EventType.ENDPOINT_DISABLED, {"endpoint": {"id": "ep_1"}}, "/runbridge"),
    ],
)
def test_the_source_is_a_uri_path_of_the_connection(event_type: EventType, details, source: str) -> None:
    made = payload_for(endpoint(format="cloudevents"), other_event("evt_1", event_type, details, now=NOW))
    assert made is not None
    assert json.loads(made.body)["source"] == source
    run_event = payload_for(endpoint(format="cloudevents"), sample_event(EventType.RUN_FINISHED))
    assert run_event is not None
    assert json.loads(run_event.body)["source"] == "/runbridge/test"
