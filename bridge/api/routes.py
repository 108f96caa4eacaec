"""The one route table: it registers the routes and is what the OpenAPI document is made from.

A new route is a handler and a line here. `answers` names every good answer; the refusals follow from
what a route is: `refusals` adds those of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from bridge.api import answers, bodies, connections, deliveries, endpoints, events, health, nodes, replays, runs, stream
from bridge.api import subscriber_answers as subscribers
from bridge.api.bodies import NoBody, NoQuery
from bridge.api.door import Answer, Call, Door

Handler = Callable[[Door, Call[Any]], Awaitable[Answer | web.StreamResponse]]
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """One call. `given` is the model of the body, or of the query where there is no body.

    `answers`: status → schema (None: no body). `is_open`: needs no token. `is_large`: the body may be a batch.
    """

    method: str
    path: str
    handle: Handler
    given: type[BaseModel]
    answers: Mapping[int, type[BaseModel] | None]
    refusals: tuple[int, ...] = ()
    is_open: bool = False
    is_large: bool = False
    content_type: str = JSON
    tag: str = field(default="")

    @property
    def has_body(self) -> bool:
        """Whether a JSON body is read."""
        return self.method in ("POST", "PATCH")

    @property
    def name(self) -> str:
        """The handler's name, unique in the table."""
        return getattr(self.handle, "__name__", "")


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/runs", runs.register_run, bodies.RunBody,
          {201: answers.RegisteredRun, 200: answers.RegisteredRun}, (409, 502)),
    Route("POST", "/v1/runs/batch", runs.register_batch, bodies.BatchBody, {200: answers.BatchAnswer}, (409,), is_large=True),
    Route("GET", "/v1/runs", runs.list_runs, bodies.RunsQuery, {200: answers.RunList}),
    Route("GET", "/v1/runs/{id}", runs.show_run, NoQuery, {200: answers.RunInFull}, (404,)),
    Route("GET", "/v1/runs/{id}/wait", runs.wait_for_run, bodies.WaitQuery, {200: answers.RunAnswer}, (404,)),
    Route("POST", "/v1/runs/{id}/poll", runs.poll_run, NoBody, {202: answers.RunAnswer}, (404, 409)),
    Route("POST", "/v1/runs/{id}/cancel", runs.cancel_run, NoBody, {202: answers.RunAnswer}, (404, 409, 502)),
    Route("DELETE", "/v1/runs/{id}", runs.delete_run, NoQuery, {204: None}, (404,)),
    Route("GET", "/v1/connections", connections.list_connections, NoQuery, {200: answers.ConnectionList}),
    Route("GET", "/v1/connections/{name}", connections.show_connection, bodies.ConnectionQuery,
          {200: answers.ConnectionInFull}, (404,)),
    Route("POST", "/v1/connections/{name}/check", connections.check_connection, NoBody, {200: answers.CheckAnswer}, (404, 409)),
    Route("GET", "/v1/nodes", nodes.list_nodes, NoQuery, {200: answers.NodeList}),
    Route("POST", "/v1/endpoints", endpoints.create_endpoint, bodies.EndpointBody, {201: subscribers.NewEndpoint}, (409,)),
    Route("GET", "/v1/endpoints", endpoints.list_endpoints, bodies.EndpointsQuery, {200: subscribers.EndpointList}),
    Route("GET", "/v1/endpoints/{id}", endpoints.show_endpoint, NoQuery, {200: subscribers.EndpointAnswer}, (404,)),
    Route("PATCH", "/v1/endpoints/{id}", endpoints.change_endpoint, bodies.EndpointPatch,
          {200: subscribers.EndpointAnswer}, (404, 409)),
    Route("DELETE", "/v1/endpoints/{id}", endpoints.delete_endpoint, NoQuery, {204: None}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/rotate-secret", endpoints.rotate_secret, bodies.RotateBody,
          {200: subscribers.NewSecret}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/enable", endpoints.enable_endpoint, NoBody, {200: subscribers.EndpointAnswer}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/disable", endpoints.disable_endpoint, NoBody, {200: subscribers.EndpointAnswer}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/ping", endpoints.ping_endpoint, NoBody, {202: subscribers.PingAnswer}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/replay", replays.replay_to_endpoint, bodies.EndpointReplayBody,
          {202: subscribers.ReplayAnswer, 200: subscribers.ReplayCount}, (404, 409)),
    Route("GET", "/v1/replays", replays.list_replays, bodies.PageQuery, {200: subscribers.ReplayList}),
    Route("GET", "/v1/replays/{id}", replays.show_replay, NoQuery, {200: subscribers.ReplayAnswer}, (404,)),
    Route("POST", "/v1/replays/{id}/cancel", replays.cancel_replay, NoBody, {200: subscribers.ReplayAnswer}, (404, 409)),
    Route("GET", "/v1/events", events.list_events, bodies.EventsQuery, {200: answers.EventList}, (404,)),
    Route("GET", "/v1/events/stream", stream.stream_events, bodies.StreamQuery, {200: None}, (404,),
          content_type="text/event-stream"),
    Route("GET", "/v1/events/{id}", events.show_event, NoQuery, {200: answers.EventAnswer}, (404,)),
    Route("POST", "/v1/events/{id}/replay", events.replay_event, bodies.EventReplayBody,
          {202: subscribers.EventReplayAnswer}, (404, 409)),
    Route("GET", "/v1/deliveries", deliveries.list_deliveries, bodies.DeliveriesQuery, {200: subscribers.DeliveryList}),
    Route("GET", "/v1/deliveries/{id}", deliveries.show_delivery, NoQuery, {200: subscribers.DeliveryAnswer}, (404,)),
    Route("POST", "/v1/deliveries/{id}/retry", deliveries.retry_delivery, NoBody, {202: subscribers.DeliveryAnswer}, (404, 409)),
    Route("GET", "/metrics", health.show_metrics, NoQuery, {200: None}, content_type="text/plain"),
    Route("GET", "/healthz", health.show_liveness, NoQuery, {200: answers.LivenessAnswer}, is_open=True),
    Route("GET", "/readyz", health.show_readiness, NoQuery,
          {200: answers.ReadinessAnswer, 503: answers.ReadinessAnswer}, is_open=True),
    Route("GET", "/openapi.json", health.show_openapi, NoQuery, {200: None}, is_open=True),
    Route("GET", "/", health.show_front_page, NoQuery, {200: None}, is_open=True, content_type="text/html"),
)  # fmt: skip
