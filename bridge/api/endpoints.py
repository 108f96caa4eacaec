"""Endpoints: make, list, change, switch on and off, rotate the secret, ping."""

from __future__ import annotations

from datetime import timedelta

from bridge.api.context import Call, Door, Response, answer
from bridge.api.request_models import (
    EndpointBody,
    EndpointPatch,
    EndpointsQuery,
    NoBody,
    NoQuery,
    RotateBody,
)
from bridge.api.serializers import read_cursor, shown_endpoint, shown_instant, shown_page
from bridge.domain.delivery import Lane
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict, InvalidInput, NotFound, Problem
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.domain.run import Json
from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import new_signing_key, public_key
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import endpoints, events
from bridge.store.transaction import Tx

SWITCHED_OFF = "switched off over the API"


async def create_endpoint(door: Door, call: Call[EndpointBody]) -> Response:
    """A new subscriber; its secret is shown here only."""
    body = call.given
    secret = body.secret or Secret(new_secret())
    endpoint = Endpoint(id=new_id("ep"), source=EndpointSource.API, **body.settings())

    def work(tx: Tx) -> Response:
        made = endpoints.insert_endpoint(tx, endpoint, secret)
        keys = endpoints.public_keys(tx, [made.id]).get(made.id, ())
        return answer(201, {**shown_endpoint(made, keys, with_values=True), "secret": secret.reveal()})

    return await door.write(call, work)


async def list_endpoints(door: Door, call: Call[EndpointsQuery]) -> Response:
    """By id; those of single runs only when asked for."""
    query, after = call.given, read_cursor(call.given.cursor)

    def work(tx: Tx) -> list[dict[str, Json]]:
        found = endpoints.list_endpoints(tx, limit=query.limit + 1, after=after, with_one_run=query.one_run)
        keys = endpoints.public_keys(tx, [endpoint.id for endpoint in found if "v1a" in endpoint.signature])
        return [shown_endpoint(endpoint, keys.get(endpoint.id, ())) for endpoint in found]

    return answer(200, shown_page(await door.database.read(work), query.limit))


async def show_endpoint(door: Door, call: Call[NoQuery]) -> Response:
    """One endpoint."""
    return answer(200, await door.database.read(lambda tx: _shown(tx, call.id())))


async def change_endpoint(door: Door, call: Call[EndpointPatch]) -> Response:
    """What is given is set, what is left out stays."""
    given: dict[str, object] = {name: getattr(call.given, name) for name in call.given.model_fields_set}
    if "headers" in given:
        given["fault"] = None  # whatever was wrong with the old ones

    def work(tx: Tx) -> None:
        endpoints.update_endpoint(tx, _changeable(tx, call.id()).model_copy(update=given))

    await door.database.write(work)
    return await show_endpoint(door, Call(call.request, NoQuery()))


async def delete_endpoint(door: Door, call: Call[NoQuery]) -> Response:
    """Remove it; what it had not got yet is discarded."""
    await door.database.write(lambda tx: endpoints.remove_endpoint(tx, _changeable(tx, call.id()).id))
    return Response(204)


async def rotate_secret(door: Door, call: Call[RotateBody]) -> Response:
    """A new secret, shown here only; the old one goes on signing beside it for the overlap."""
    kind = call.given.signature
    is_shared = kind == "v1"
    if call.given.secret is not None and not is_shared:
        raise InvalidInput([Problem("secret", "a v1a key is always made here; leave the secret out")])
    secret = call.given.secret or Secret(new_secret() if is_shared else new_signing_key())

    def work(tx: Tx) -> Response:
        endpoint = _changeable(tx, call.id())
        if kind not in endpoint.signature:
            raise Conflict(f"the endpoint is not signed with {kind}; set its signature first")
        old_until = tx.now + timedelta(seconds=call.given.overlap)
        endpoints.rotate_secret(tx, endpoint.id, secret, old_until=old_until, kind=kind)
        shown: dict[str, Json] = {
            "secret": secret.reveal() if is_shared else None,
            "public_key": None if is_shared else public_key(secret.reveal()),
        }
        return answer(200, {"id": endpoint.id, **shown, "old_until": shown_instant(old_until)})

    return await door.write(call, work)


async def enable_endpoint(door: Door, call: Call[NoBody]) -> Response:
    """Switch on; what was due is so at once. One from the file too, if it was switched off by itself."""

    def work(tx: Tx) -> Response:
        if not present_endpoint(tx, call.id()).enabled:
            endpoints.enable_endpoint(tx, call.id())
        else:
            _changeable(tx, call.id())
        return answer(200, _shown(tx, call.id()))

    return await door.write(call, work)


async def disable_endpoint(door: Door, call: Call[NoBody]) -> Response:
    """Switch off, and tell the others; what is due is kept, what is recorded from now on is not queued for it."""

    def work(tx: Tx) -> Response:
        endpoint = _changeable(tx, call.id())
        if endpoints.disable_endpoint(tx, endpoint.id, SWITCHED_OFF):
            events.record_endpoint_event(tx, EventType.ENDPOINT_DISABLED, endpoint, SWITCHED_OFF)
        return answer(200, _shown(tx, endpoint.id))

    return await door.write(call, work)


async def ping_endpoint(door: Door, call: Call[NoBody]) -> Response:
    """A test delivery to this endpoint alone, whatever its types and filter."""

    def work(tx: Tx) -> Response:
        endpoint = enabled_endpoint(tx, call.id())
        details: dict[str, Json] = {"endpoint": {"id": endpoint.id, "description": endpoint.description}}
        ping = other_event(new_id("evt"), EventType.BRIDGE_PING, details, now=tx.now)
        events.record_events(tx, [ping], only=[endpoint], lane=Lane.AT_ONCE)
        return answer(202, {"event_id": ping.id})

    return await door.write(call, work)


def _shown(tx: Tx, endpoint_id: str) -> dict[str, Json]:
    endpoint = present_endpoint(tx, endpoint_id)
    return shown_endpoint(endpoint, endpoints.public_keys(tx, [endpoint_id]).get(endpoint_id, ()))


def present_endpoint(tx: Tx, endpoint_id: str, *, to_change: bool = False) -> Endpoint:
    """The endpoint, or NotFound; `to_change` as with `get_endpoint`."""
    endpoint = endpoints.get_endpoint(tx, endpoint_id, to_change=to_change)
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
    endpoint = present_endpoint(tx, endpoint_id, to_change=True)
    if endpoint.source is EndpointSource.CONFIG:
        raise Conflict(f"the endpoint {endpoint.id} stands in the configuration file; change it there and reload")
    return endpoint
