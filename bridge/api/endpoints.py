"""Endpoints: make, list, change, switch on and off, rotate the secret, ping, replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from bridge.api.bodies import (
    EndpointBody,
    EndpointPatch,
    EndpointReplayBody,
    EndpointsQuery,
    NoBody,
    NoQuery,
    RotateBody,
)
from bridge.api.door import Answer, Call, Door, answer
from bridge.api.shown import read_cursor, shown_endpoint, shown_instant, shown_page
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict, InvalidInput, NotFound, Problem
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.domain.run import Json
from bridge.domain.secret import Secret
from bridge.domain.signature import new_secret
from bridge.store import endpoints, events
from bridge.store.replays import ReplayBatch, ReplayStatus, Selection, replay_batch
from bridge.store.transaction import Tx

SWITCHED_OFF = "switched off over the API"


async def create_endpoint(door: Door, call: Call[EndpointBody]) -> Answer:
    """A new subscriber; its secret is shown here only."""
    body = call.given
    secret = body.secret or Secret(new_secret())
    endpoint = Endpoint(
        id=new_id("ep"),
        url=body.url,
        source=EndpointSource.API,
        events=None if body.events is None else tuple(body.events),
        filter=body.filter,
        description=body.description,
        headers=body.headers,
        ordered=body.ordered,
        payload=body.payload,
    )

    def work(tx: Tx) -> Answer:
        made = endpoints.insert_endpoint(tx, endpoint, secret)
        return answer(201, {**shown_endpoint(made, with_values=True), "secret": secret.reveal()})

    return await door.write(call, work)


async def list_endpoints(door: Door, call: Call[EndpointsQuery]) -> Answer:
    """By id; those of single runs only when asked for."""
    query, after = call.given, read_cursor(call.given.cursor)
    found = await door.database.read(
        lambda tx: endpoints.list_endpoints(tx, limit=query.limit + 1, after=after, with_one_run=query.one_run)
    )
    return answer(200, shown_page([shown_endpoint(endpoint) for endpoint in found], query.limit))


async def show_endpoint(door: Door, call: Call[NoQuery]) -> Answer:
    """One endpoint."""
    return answer(200, shown_endpoint(await door.database.read(lambda tx: present_endpoint(tx, call.id()))))


async def change_endpoint(door: Door, call: Call[EndpointPatch]) -> Answer:
    """What is given is set, what is left out stays."""
    given: dict[str, object] = {name: getattr(call.given, name) for name in call.given.model_fields_set}
    if given.get("events") is not None:
        given["events"] = tuple(call.given.events or ())

    def work(tx: Tx) -> None:
        endpoints.update_endpoint(tx, replace(_changeable(tx, call.id()), **given))  # type: ignore[arg-type]

    await door.database.write(work)
    return await show_endpoint(door, Call(call.request, NoQuery()))


async def delete_endpoint(door: Door, call: Call[NoQuery]) -> Answer:
    """Remove it; what it had not got yet is discarded."""
    await door.database.write(lambda tx: endpoints.remove_endpoint(tx, _changeable(tx, call.id()).id))
    return Answer(204)


async def rotate_secret(door: Door, call: Call[RotateBody]) -> Answer:
    """A new secret, shown here only; the old one goes on signing beside it for the overlap."""
    secret = call.given.secret or Secret(new_secret())

    def work(tx: Tx) -> Answer:
        endpoint = _changeable(tx, call.id())
        old_until = tx.now + timedelta(seconds=call.given.overlap)
        endpoints.rotate_secret(tx, endpoint.id, secret, old_until=old_until)
        return answer(200, {"id": endpoint.id, "secret": secret.reveal(), "old_until": shown_instant(old_until)})

    return await door.write(call, work)


async def enable_endpoint(door: Door, call: Call[NoBody]) -> Answer:
    """Switch on; what was kept for it is due at once."""

    def switch(tx: Tx, endpoint: Endpoint) -> None:
        if not endpoint.enabled:
            endpoints.enable_endpoint(tx, endpoint.id)

    return await _switch(door, call, switch)


async def disable_endpoint(door: Door, call: Call[NoBody]) -> Answer:
    """Switch off, and tell the others; what it has not got yet is kept."""

    def switch(tx: Tx, endpoint: Endpoint) -> None:
        if endpoints.disable_endpoint(tx, endpoint.id, SWITCHED_OFF):
            events.record_disabled(tx, endpoint, SWITCHED_OFF)

    return await _switch(door, call, switch)


async def _switch(door: Door, call: Call[NoBody], switch: Callable[[Tx, Endpoint], None]) -> Answer:
    def work(tx: Tx) -> Answer:
        switch(tx, _changeable(tx, call.id()))
        return answer(200, shown_endpoint(present_endpoint(tx, call.id())))

    return await door.write(call, work)


async def ping_endpoint(door: Door, call: Call[NoBody]) -> Answer:
    """A test delivery to this endpoint alone, whatever its types and filter."""

    def work(tx: Tx) -> Answer:
        endpoint = enabled_endpoint(tx, call.id())
        details: dict[str, Json] = {"endpoint": {"id": endpoint.id, "description": endpoint.description}}
        ping = other_event(new_id("evt"), EventType.BRIDGE_PING, details, now=tx.now)
        events.record_events(tx, [ping], only=[endpoint])
        return answer(202, {"event_id": ping.id})

    return await door.write(call, work)


async def replay_to_endpoint(door: Door, call: Call[EndpointReplayBody]) -> Answer:
    """Send a selection of events to this endpoint again, or count them first."""
    body = call.given
    if body.until is not None and body.until <= body.since:
        raise InvalidInput([Problem("until", "must be later than since")])
    status = None if body.status is None else ReplayStatus(body.status)
    last = await door.database.read(events.last_position)  # what is recorded from now on is sent anyway
    wanted = Selection(body.since, body.until, tuple(body.types or ()), status, last)
    count = await _replay(door, call.id(), wanted, dry_run=body.dry_run)
    return answer(200 if body.dry_run else 202, {"count": count, "replayed": 0 if body.dry_run else count})


async def _replay(door: Door, endpoint_id: str, wanted: Selection, *, dry_run: bool) -> int:
    position: int | None = 0
    count = 0
    while position is not None:
        batch = await _replay_batch(door, endpoint_id, wanted, position, dry_run=dry_run)
        count, position = count + batch.count, batch.next_position
    return count


async def _replay_batch(door: Door, endpoint_id: str, wanted: Selection, after: int, *, dry_run: bool) -> ReplayBatch:
    def work(tx: Tx) -> ReplayBatch:
        endpoint = (present_endpoint if dry_run else enabled_endpoint)(tx, endpoint_id)
        return replay_batch(tx, endpoint, wanted, after=after, dry_run=dry_run)

    return await (door.database.read(work) if dry_run else door.database.write(work))


def present_endpoint(tx: Tx, endpoint_id: str) -> Endpoint:
    """The endpoint, or NotFound."""
    endpoint = endpoints.get_endpoint(tx, endpoint_id)
    if endpoint is None:
        raise NotFound(f"there is no endpoint {endpoint_id}")
    return endpoint


def enabled_endpoint(tx: Tx, endpoint_id: str) -> Endpoint:
    """The endpoint to send to, or NotFound, or Conflict when it is switched off."""
    endpoint = present_endpoint(tx, endpoint_id)
    if not endpoint.enabled:
        raise Conflict(f"the endpoint is switched off ({endpoint.disabled_reason}); enable it first")
    return endpoint


def _changeable(tx: Tx, endpoint_id: str) -> Endpoint:
    endpoint = present_endpoint(tx, endpoint_id)
    if endpoint.source is EndpointSource.CONFIG:
        raise Conflict(f"the endpoint {endpoint.id} stands in the configuration file; change it there and reload")
    return endpoint
