"""The route table: it registers the routes, and the OpenAPI document is made from it.

A new route is a handler, a line here and its models. `response_models` names every good response; the refusals follow
from what a route is: `refusals` adds those of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from bridge.api import (
    bulk,
    connections,
    dashboard_files,
    deliveries,
    endpoints,
    events,
    health,
    metrics,
    replays,
    request_models,
    response_models,
    runs,
    selections,
    sessions,
    stream,
    summary,
)
from bridge.api import dashboard_response_models as dashboard
from bridge.api import subscriber_response_models as subscribers
from bridge.api.context import Request, RequestContext, Response
from bridge.api.request_models import NoBody, NoQuery
from bridge.domain.api_token import Scope

Handler = Callable[[RequestContext, Request[Any]], Awaitable[Response | web.StreamResponse]]
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `request_model` describes the body, or the query where there is no body.

    `response_models`: status → model (None: no body). `is_open`: needs no token. `is_large`: the body may be a batch.
    `has_secret`: of a sign-in, so no response is kept for an `Idempotency-Key`. `scope`: what a token
    needs for it; that of a GET is always `read`. `keeps_trace`: the trace context of the request is kept with the runs.
    """

    method: str
    path: str
    handle: Handler
    request_model: type[BaseModel]
    response_models: Mapping[int, type[BaseModel] | None]
    refusals: tuple[int, ...] = ()
    is_open: bool = False
    is_large: bool = False
    has_secret: bool = False
    content_type: str = JSON
    scope: Scope = Scope.ADMIN
    keeps_trace: bool = False

    @property
    def has_body(self) -> bool:
        """Whether a JSON body is read."""
        return self.method in ("POST", "PATCH")

    @property
    def keeps_response(self) -> bool:
        """Whether its response is kept for an `Idempotency-Key`."""
        return self.method == "POST" and not self.has_secret

    @property
    def name(self) -> str:
        """The handler's name, unique in the table."""
        return getattr(self.handle, "__name__", "")


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/runs", runs.register_run, request_models.RunBody,
          {201: response_models.RegisteredRun, 200: response_models.RegisteredRun}, (409, 502), scope=Scope.REGISTER,
          keeps_trace=True),
    Route("POST", "/v1/runs/batch", runs.register_batch, request_models.BatchBody, {200: response_models.BatchAnswer}, (409,),
          is_large=True, scope=Scope.REGISTER, keeps_trace=True),
    Route("POST", "/v1/runs/cancel", bulk.cancel_runs, bulk.RunsBulkBody, {200: bulk.BulkCount, 202: bulk.BulkAnswer}),
    Route("POST", "/v1/runs/stop", bulk.stop_runs, bulk.RunsBulkBody, {200: bulk.BulkCount, 202: bulk.BulkAnswer}),
    Route("GET", "/v1/runs", runs.list_runs, selections.RunsQuery, {200: response_models.RunList}),
    Route("GET", "/v1/runs/{id}", runs.show_run, NoQuery, {200: response_models.RunInFull}, (404,)),
    Route("GET", "/v1/runs/{id}/wait", runs.wait_for_run, request_models.WaitQuery, {200: response_models.RunAnswer}, (404,)),
    Route("POST", "/v1/runs/{id}/poll", runs.poll_run, NoBody, {202: response_models.RunAnswer}, (404, 409)),
    Route("POST", "/v1/runs/{id}/cancel", runs.cancel_run, NoBody, {202: response_models.RunAnswer}, (404, 409, 502)),
    Route("DELETE", "/v1/runs/{id}", runs.delete_run, NoQuery, {204: None}, (404,)),
    Route("GET", "/v1/connections", connections.list_connections, NoQuery, {200: response_models.ConnectionList}),
    Route("GET", "/v1/connections/{name}", connections.show_connection, request_models.ConnectionQuery,
          {200: response_models.ConnectionInFull}, (404,)),
    Route("POST", "/v1/connections/{name}/check", connections.check_connection, NoBody, {200: response_models.CheckAnswer}, (404, 409)),
    Route("GET", "/v1/configuration", health.show_configuration, NoQuery, {200: dashboard.SettingList}),
    Route("GET", "/v1/doctor", health.show_findings, NoQuery, {200: dashboard.FindingList}),
    Route("POST", "/v1/alerts/test", health.check_alerts, request_models.AlertTestBody, {200: dashboard.AlertTest}, (409,)),
    Route("GET", "/v1/summary", summary.show_summary, NoQuery, {200: dashboard.SummaryAnswer}),
    Route("GET", "/v1/nodes", health.list_nodes, NoQuery, {200: response_models.NodeList}),
    Route("POST", "/v1/endpoints", endpoints.create_endpoint, request_models.EndpointBody, {201: subscribers.NewEndpoint}, (409,)),
    Route("POST", "/v1/endpoints/test-filter", endpoints.test_filter, request_models.FilterTestBody,
          {200: subscribers.FilterTest}),
    Route("GET", "/v1/endpoints", endpoints.list_endpoints, request_models.EndpointsQuery, {200: subscribers.EndpointList}),
    Route("GET", "/v1/endpoints/{id}", endpoints.show_endpoint, NoQuery, {200: subscribers.EndpointAnswer}, (404,)),
    Route("PATCH", "/v1/endpoints/{id}", endpoints.change_endpoint, request_models.EndpointPatch,
          {200: subscribers.EndpointAnswer}, (404, 409)),
    Route("DELETE", "/v1/endpoints/{id}", endpoints.delete_endpoint, NoQuery, {204: None}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/rotate-secret", endpoints.rotate_secret, request_models.RotateBody,
          {200: subscribers.NewSecret}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/enable", endpoints.enable_endpoint, NoBody, {200: subscribers.EndpointAnswer}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/disable", endpoints.disable_endpoint, NoBody, {200: subscribers.EndpointAnswer}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/ping", endpoints.ping_endpoint, NoBody, {202: subscribers.PingAnswer}, (404, 409)),
    Route("POST", "/v1/endpoints/{id}/replay", replays.replay_to_endpoint, request_models.EndpointReplayBody,
          {202: subscribers.ReplayAnswer, 200: subscribers.ReplayCount}, (404, 409)),
    Route("GET", "/v1/replays", replays.list_replays, selections.ReplaysQuery, {200: subscribers.ReplayList}),
    Route("GET", "/v1/replays/{id}", replays.show_replay, NoQuery, {200: subscribers.ReplayAnswer}, (404,)),
    Route("POST", "/v1/replays/{id}/cancel", replays.cancel_replay, NoBody, {200: subscribers.ReplayAnswer}, (404, 409)),
    Route("GET", "/v1/events", events.list_events, request_models.EventsQuery, {200: response_models.EventList}, (404,)),
    Route("GET", "/v1/events/stream", stream.stream_events, request_models.StreamQuery, {200: None}, (404,),
          content_type="text/event-stream"),
    Route("GET", "/v1/events/{id}", events.show_event, NoQuery, {200: response_models.EventAnswer}, (404,)),
    Route("POST", "/v1/events/{id}/replay", events.replay_event, request_models.EventReplayBody,
          {202: subscribers.EventReplayAnswer}, (404, 409)),
    Route("POST", "/v1/deliveries/retry", bulk.retry_deliveries, bulk.DeliveriesBulkBody,
          {200: bulk.BulkCount, 202: bulk.BulkAnswer}),
    Route("GET", "/v1/deliveries", deliveries.list_deliveries, selections.DeliveriesQuery, {200: subscribers.DeliveryList}),
    Route("GET", "/v1/deliveries/{id}", deliveries.show_delivery, NoQuery, {200: subscribers.DeliveryAnswer}, (404,)),
    Route("POST", "/v1/deliveries/{id}/retry", deliveries.retry_delivery, NoBody, {202: subscribers.DeliveryAnswer}, (404, 409)),
    Route("POST", "/v1/session", sessions.sign_in, request_models.SessionBody, {201: dashboard.SessionAnswer},
          (401, 403, 404, 429, 503), is_open=True, has_secret=True),
    Route("GET", "/v1/session", sessions.show_session, NoQuery, {200: dashboard.SessionAnswer}),
    Route("DELETE", "/v1/session", sessions.sign_out, NoQuery, {204: None}, scope=Scope.READ),
    Route("POST", "/v1/session/link", sessions.make_link, NoBody, {201: dashboard.LinkAnswer}, (404,),
          has_secret=True, scope=Scope.READ),
    Route("GET", "/v1/sessions", sessions.list_sessions, NoQuery, {200: dashboard.SessionList}),
    Route("DELETE", "/v1/sessions/{id}", sessions.end_session, NoQuery, {204: None}, (404,)),
    Route("GET", "/metrics", metrics.show_metrics, NoQuery, {200: None}, content_type="text/plain"),
    Route("GET", "/healthz", health.show_liveness, NoQuery, {200: response_models.LivenessAnswer}, is_open=True),
    Route("GET", "/readyz", health.show_readiness, NoQuery,
          {200: response_models.ReadinessAnswer, 503: response_models.ReadinessAnswer}, is_open=True),
    Route("GET", "/openapi.json", health.show_openapi, NoQuery, {200: None}, is_open=True),
    Route("GET", "/errors", health.show_errors, NoQuery, {200: None}, is_open=True, content_type="text/html"),
    Route("GET", "/", dashboard_files.show_page, NoQuery, {200: None}, (404,), is_open=True, content_type="text/html"),
    Route("GET", "/assets/{digest}/{name}", dashboard_files.show_asset, NoQuery, {200: None}, (404,), is_open=True,
          content_type="text/javascript"),
)  # fmt: skip
