"""Connections: how each provider account stands, and one real call to find out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.api.context import Call, Door, Response, answer
from bridge.api.request_models import ConnectionQuery, NoBody, NoQuery
from bridge.api.serializers import shown_connection
from bridge.domain.errors import NotFound
from bridge.domain.run import Json
from bridge.domain.suggestions import unknown
from bridge.store.connections import HealthRow, list_health


async def list_connections(door: Door, _call: Call[NoQuery]) -> Response:
    """Every connection of the configuration, by name."""
    health = await door.database.read(list_health)
    shown = [_shown(door, name, health) for name in sorted(door.bridge.connections)]
    return answer(200, {"data": [*shown], "next_cursor": None})


async def show_connection(door: Door, call: Call[ConnectionQuery]) -> Response:
    """One, and what was learned of one workflow if it is named."""
    health = await door.database.read(list_health)
    name, workflow = _known_name(door, call), call.given.workflow
    shown = _shown(door, name, health)
    if workflow is not None:
        shown["distribution"] = door.bridge.distribution(name, workflow)
    return answer(200, shown)


async def check_connection(door: Door, call: Call[NoBody]) -> Response:
    """One real authenticated call to the provider."""
    result = await door.bridge.check_connection(_known_name(door, call))
    return answer(200, {"ok": result.ok, "detail": result.detail, "duration_ms": result.duration_ms})


def _known_name(door: Door, call: Call[Any]) -> str:
    name = call.id("name")
    if name not in door.bridge.connections:
        raise NotFound(unknown("connection", name, list(door.bridge.connections)))
    return name


def _shown(door: Door, name: str, health: Mapping[str, HealthRow]) -> dict[str, Json]:
    return shown_connection(door.bridge.connections[name], health.get(name), door.bridge.connection_state(name))
