"""Events: the pull feed, one event as its recorded bytes, replay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container
from typing import Final

from bridge.api.context import Request, RequestContext, Response, present
from bridge.api.endpoints import enabled_endpoint
from bridge.api.request_models import EventReplayBody, EventsQuery, NoQuery
from bridge.api.subscriber_response_models import EventReplayAnswer
from bridge.domain.delivery import Lane
from bridge.domain.endpoint import Endpoint
from bridge.domain.errors import BeingSent, Conflict
from bridge.domain.event import Event, EventType, encode
from bridge.store import endpoints, events
from bridge.store.deliveries import check_not_being_sent, count_states
from bridge.store.replays import deliveries_by_endpoint, resend_event
from bridge.store.transaction import Tx

AT_REST_S: Final = 5.0
AT_REST_REST_S: Final = 0.05


async def list_events(context: RequestContext, request: Request[EventsQuery]) -> Response:
    """List events in the order of recording, after the event `after`; `next_cursor` is where to go on, also at the end.

    A client that gives it as `cursor`, as in the other lists, reads to the end: an empty page has null. With `order`
    newest, the reverse: `after` is then the last event of the page before, and the cursor ends with null.
    """
    query, is_feed = request.data, request.data.order == "oldest"
    start = query.after or query.cursor

    def work(tx: Tx) -> tuple[list[Event], dict[str, dict[str, int]]]:
        found = page(tx)
        return found, count_states(tx, event_ids=[event.id for event in found]) if query.deliveries else {}

    def page(tx: Tx) -> list[Event]:
        position = None if start is None else position_of(tx, start)
        types = [t.value for t in query.type]
        if is_feed:
            return events.list_feed(tx, after=position or 0, limit=query.limit, types=types, run_id=query.run_id)
        return events.list_newest(tx, before=position, limit=query.limit + 1, types=types, run_id=query.run_id)

    found, sent = await context.database.read(work)
    if is_feed:
        next_cursor = found[-1].id if found else query.after
    else:
        next_cursor = found[query.limit - 1].id if len(found) > query.limit else None
        found = found[: query.limit]
    bodies = b",".join(
        b'%b,"deliveries":%b}' % (event.body[:-1], encode({**sent.get(event.id, {})}))
        if query.deliveries
        else event.body
        for event in found
    )
    body = b'{"data":[%b],"next_cursor":%b}' % (bodies, encode(next_cursor))
    return Response(200, body, next_cursor=next_cursor if len(found) == query.limit else None)


def position_of(tx: Tx, event_id: str) -> int:
    """The position of an event in the feed. Raises NotFound if it is unknown or no longer kept."""
    return present_event(tx, event_id).position or 0


def present_event(tx: Tx, event_id: str) -> Event:
    """The event; raises NotFound if there is none."""
    return present(events.get_event(tx, event_id), f"event {event_id}, or it is no longer kept")


async def show_event(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show an event: the stored bytes, as they are signed and sent."""
    return Response(200, (await context.database.read(lambda tx: present_event(tx, request.id()))).body)


async def replay_event(context: RequestContext, request: Request[EventReplayBody]) -> Response:
    """Send one event again: to one endpoint, or to all that had it or want it now."""

    def work(tx: Tx) -> Response:
        event = present_event(tx, request.id())
        named = request.data.endpoint
        had = deliveries_by_endpoint(tx, event.id)
        receivers = _receivers(tx, event, had) if named is None else [_receiver(tx, event, named)]
        check_not_being_sent(tx, [had[endpoint.id] for endpoint in receivers if endpoint.id in had])
        made = resend_event(tx, event, receivers, had, lane=Lane.AT_ONCE)
        return Response.of(202, EventReplayAnswer(deliveries=made))

    clock = asyncio.get_running_loop().time
    until = clock() + AT_REST_S
    while clock() < until:  # a receiver may ask before the attempt that it has just got is recorded
        with contextlib.suppress(BeingSent):
            return await context.write(request, work)
        await asyncio.sleep(AT_REST_REST_S)
    return await context.write(request, work)


def _receiver(tx: Tx, event: Event, endpoint_id: str) -> Endpoint:
    endpoint = enabled_endpoint(tx, endpoint_id)
    if endpoint.run_id not in (None, event.run_id):
        raise Conflict(f"the endpoint {endpoint_id} belongs to another run and hears of that one only")
    return endpoint


def _receivers(tx: Tx, event: Event, had: Container[str]) -> list[Endpoint]:
    is_ping = event.type is EventType.BRIDGE_PING
    found = [
        endpoint
        for endpoint in endpoints.listening_endpoints(tx, event.run_id)
        if endpoint.id in had or (not is_ping and events.wants_event(tx, endpoint, event))
    ]
    on = endpoints.enabled_ids(tx, [endpoint.id for endpoint in found])  # and stay so until the commit
    return [endpoint for endpoint in found if endpoint.id in on]
