"""Endpoints: create, list, show, change, enable, disable, rotate the secret, ping."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

from bridge.api.context import Request, RequestContext, Response, present
from bridge.api.request_models import (
    EndpointBody,
    EndpointPatch,
    EndpointsQuery,
    FilterTestBody,
    NoBody,
    NoQuery,
    RotateBody,
)
from bridge.api.response_models import page_of, read_cursor
from bridge.api.subscriber_response_models import (
    EndpointAnswer,
    EndpointList,
    FilterTest,
    FilterTestItem,
    NewEndpoint,
    NewSecret,
    PingAnswer,
)
from bridge.domain.delivery import Lane
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict, FilterFailed, InvalidInput, Problem
from bridge.domain.event import Event, EventType, other_event
from bridge.domain.filter import evaluate
from bridge.domain.ids import new_id
from bridge.domain.run import Json
from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import new_signing_key, public_key
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import endpoints, events
from bridge.store.endpoint_stats import EndpointStats, read_stats
from bridge.store.ordering import share_endpoint
from bridge.store.transaction import Tx

SWITCHED_OFF = "switched off over the API"


async def create_endpoint(context: RequestContext, request: Request[EndpointBody]) -> Response:
    """Make an endpoint; its secret is shown here only."""
    body = request.data
    secret = body.secret or Secret(new_secret())
    endpoint = Endpoint(id=new_id("ep"), source=EndpointSource.API, **body.settings())

    def work(tx: Tx) -> Response:
        made = endpoints.insert_endpoint(tx, endpoint, secret)
        keys = endpoints.public_keys(tx, [made.id]).get(made.id, ())
        return Response.of(201, NewEndpoint.of(made, keys, headers=made.headers, secret=secret.reveal()))

    return await context.write(request, work)


async def test_filter(context: RequestContext, request: Request[FilterTestBody]) -> Response:
    """Try a filter on the newest events: whether each passes."""
    body = request.data
    types = [name.value for name in body.types or ()]
    found = await context.database.read(lambda tx: events.list_newest(tx, before=None, limit=body.limit, types=types))
    items = await asyncio.to_thread(lambda: [_try_filter(body.filter, event) for event in found])  # may take a second
    matched, failed = sum(item.matches for item in items), sum(item.error is not None for item in items)
    return Response.of(200, FilterTest(data=items, matched=matched, failed=failed))


def _try_filter(expression: str, event: Event) -> FilterTestItem:
    try:
        matches, error = evaluate(expression, json.loads(event.body)), None
    except FilterFailed as failure:
        matches, error = False, str(failure)
    return FilterTestItem(
        event_id=event.id,
        type=event.type,
        run_id=event.run_id,
        created_at=event.created_at,
        matches=matches,
        error=error,
    )


async def list_endpoints(context: RequestContext, request: Request[EndpointsQuery]) -> Response:
    """List the endpoints by id; those of single runs only when asked for."""
    query, after = request.data, read_cursor(request.data.cursor)

    def work(tx: Tx) -> list[EndpointAnswer]:
        found = endpoints.list_endpoints(tx, limit=query.limit + 1, after=after, with_one_run=query.one_run)
        keys = endpoints.public_keys(tx, [endpoint.id for endpoint in found if "v1a" in endpoint.signature])
        stats = read_stats(tx, [endpoint.id for endpoint in found])
        until = endpoints.old_secrets_until(tx, [endpoint.id for endpoint in found])
        return [
            EndpointAnswer.of(
                endpoint,
                keys.get(endpoint.id, ()),
                context.bridge.filter_errors(endpoint),
                stats[endpoint.id],
                old_secret_until=until.get(endpoint.id),
            )
            for endpoint in found
        ]

    return Response.of(200, page_of(EndpointList, await context.database.read(work), query.limit))


async def show_endpoint(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show an endpoint."""

    def work(tx: Tx) -> EndpointAnswer:
        return _shown(context, tx, request.id(), read_stats(tx, [request.id()])[request.id()])

    return Response.of(200, await context.database.read(work))


async def change_endpoint(context: RequestContext, request: Request[EndpointPatch]) -> Response:
    """Change an endpoint: what is given is set, what is left out stays."""
    given: dict[str, object] = {name: getattr(request.data, name) for name in request.data.model_fields_set}
    if "headers" in given:
        given["fault"] = None  # it was about the old headers

    def work(tx: Tx) -> None:
        endpoints.update_endpoint(tx, _changeable(tx, request.id()).model_copy(update=given))

    await context.database.write(work)
    return await show_endpoint(context, Request(request.http, NoQuery()))


async def delete_endpoint(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Remove an endpoint; its pending deliveries are discarded."""
    await context.database.write(lambda tx: endpoints.remove_endpoint(tx, _changeable(tx, request.id()).id))
    return Response(204)


async def rotate_secret(context: RequestContext, request: Request[RotateBody]) -> Response:
    """Rotate the signing secret; the new one is shown here only, the old one also signs for the overlap."""
    kind = request.data.signature
    is_shared = kind == "v1"
    if request.data.secret is not None and not is_shared:
        raise InvalidInput([Problem("secret", "a v1a key is always made here; leave the secret out")])
    secret = request.data.secret or Secret(new_secret() if is_shared else new_signing_key())

    def work(tx: Tx) -> Response:
        endpoint = _changeable(tx, request.id())
        if kind not in endpoint.signature:
            raise Conflict(f"the endpoint is not signed with {kind}; set its signature first")
        old_until = tx.now + timedelta(seconds=request.data.overlap)
        endpoints.rotate_secret(tx, endpoint.id, secret, old_until=old_until, kind=kind)
        made, public = (secret.reveal(), None) if is_shared else (None, public_key(secret.reveal()))
        return Response.of(200, NewSecret(id=endpoint.id, secret=made, public_key=public, old_until=old_until))

    return await context.write(request, work)


async def enable_endpoint(context: RequestContext, request: Request[NoBody]) -> Response:
    """Switch an endpoint on; what was due is sent at once.

    One of the file, too, if it was switched off by itself.
    """
    stats = await _stats(context, request.id())

    def work(tx: Tx) -> Response:
        if not present_endpoint(tx, request.id()).enabled:
            endpoints.enable_endpoint(tx, request.id())
        else:
            _changeable(tx, request.id())
        return Response.of(200, _shown(context, tx, request.id(), stats))

    return await context.write(request, work)


async def disable_endpoint(context: RequestContext, request: Request[NoBody]) -> Response:
    """Switch an endpoint off; pending deliveries are kept, later events are not queued for it."""
    stats = await _stats(context, request.id())

    def work(tx: Tx) -> Response:
        endpoint = _changeable(tx, request.id())
        if endpoints.disable_endpoint(tx, endpoint.id, SWITCHED_OFF):
            events.record_endpoint_event(tx, EventType.ENDPOINT_DISABLED, endpoint, SWITCHED_OFF)
        return Response.of(200, _shown(context, tx, endpoint.id, stats))

    return await context.write(request, work)


async def ping_endpoint(context: RequestContext, request: Request[NoBody]) -> Response:
    """Send a test event to this endpoint alone, whatever its types and filter."""

    def work(tx: Tx) -> Response:
        endpoint = enabled_endpoint(tx, request.id())
        details: dict[str, Json] = {"endpoint": {"id": endpoint.id, "description": endpoint.description}}
        ping = other_event(new_id("evt"), EventType.BRIDGE_PING, details, now=tx.now)
        events.record_events(tx, [ping], only=endpoint, lane=Lane.AT_ONCE)
        return Response.of(202, PingAnswer(event_id=ping.id))

    return await context.write(request, work)


async def _stats(context: RequestContext, endpoint_id: str) -> EndpointStats:
    """Read them before a write: they would hold up the writer."""
    return (await context.database.read(lambda tx: read_stats(tx, [endpoint_id])))[endpoint_id]


def _shown(context: RequestContext, tx: Tx, endpoint_id: str, stats: EndpointStats) -> EndpointAnswer:
    endpoint = present_endpoint(tx, endpoint_id)
    keys = endpoints.public_keys(tx, [endpoint_id]).get(endpoint_id, ())
    until = endpoints.old_secrets_until(tx, [endpoint.id]).get(endpoint.id)
    return EndpointAnswer.of(endpoint, keys, context.bridge.filter_errors(endpoint), stats, old_secret_until=until)


def present_endpoint(tx: Tx, endpoint_id: str, *, to_change: bool = False) -> Endpoint:
    """The endpoint, or NotFound; `to_change` as with `get_endpoint`."""
    return present(endpoints.get_endpoint(tx, endpoint_id, to_change=to_change), f"endpoint {endpoint_id}")


def enabled_endpoint(tx: Tx, endpoint_id: str) -> Endpoint:
    """The endpoint to send to, on until this transaction ends; or NotFound, or Conflict when it is switched off."""
    share_endpoint(tx, endpoint_id)
    endpoint = present_endpoint(tx, endpoint_id)
    if not endpoint.enabled:
        raise Conflict(f"the endpoint is switched off ({endpoint.disabled_reason}); enable it first")
    return endpoint


def _changeable(tx: Tx, endpoint_id: str) -> Endpoint:
    endpoint = present_endpoint(tx, endpoint_id, to_change=True)
    if endpoint.source is EndpointSource.CONFIG:
        raise Conflict(f"the endpoint {endpoint.id} stands in the configuration file; change it there and reload")
    return endpoint
