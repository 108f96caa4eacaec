"""Connections: the health of each provider account, and one real call to check it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.api.context import Request, RequestContext, Response
from bridge.api.request_models import ConnectionQuery, NoBody, NoQuery
from bridge.api.response_models import CheckAnswer, ConnectionInFull, ConnectionList
from bridge.domain.errors import NotFound
from bridge.domain.suggestions import unknown
from bridge.store.connections import HealthRow, list_health


async def list_connections(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """List the connections of the configuration, by name."""
    health = await context.database.read(list_health)
    shown = [_shown(context, name, health) for name in sorted(context.bridge.connections)]
    return Response.of(200, ConnectionList(data=shown, next_cursor=None))


async def show_connection(context: RequestContext, request: Request[ConnectionQuery]) -> Response:
    """Show a connection, and what was learned of one workflow if it is named."""
    health = await context.database.read(list_health)
    name, workflow = _known_name(context, request), request.data.workflow
    more = {} if workflow is None else {"distribution": context.bridge.distribution(name, workflow)}
    return Response.of(200, _shown(context, name, health, **more))


async def check_connection(context: RequestContext, request: Request[NoBody]) -> Response:
    """Make one real authenticated call to the provider."""
    result = await context.bridge.check_connection(_known_name(context, request))
    return Response.of(200, CheckAnswer.model_validate(result))


def _known_name(context: RequestContext, request: Request[Any]) -> str:
    name = request.id("name")
    if name not in context.bridge.connections:
        raise NotFound(unknown("connection", name, list(context.bridge.connections)))
    return name


def _shown(context: RequestContext, name: str, health: Mapping[str, HealthRow], **more: object) -> ConnectionInFull:
    bridge = context.bridge
    return ConnectionInFull.of(
        bridge.connections[name],
        health.get(name),
        last_error=bridge.last_error(name),
        last_check=bridge.last_check(name),
        last_list_at=bridge.last_list_at(name),
        remarks=bridge.remarks(name),
        state=bridge.connection_state(name),
        **more,
    )
