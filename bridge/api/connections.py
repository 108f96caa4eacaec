"""Connections: how each provider account stands, and one real call to find out."""

from __future__ import annotations

from bridge.api.bodies import NoBody, NoQuery
from bridge.api.door import Answer, Call, Door, answer
from bridge.api.shown import shown_connection
from bridge.domain.errors import NotFound
from bridge.domain.wording import unknown
from bridge.store.connections import list_health


async def list_connections(door: Door, _call: Call[NoQuery]) -> Answer:
    """Every connection of the configuration, by name."""
    health = await door.database.read(list_health)
    shown = [
        shown_connection(connection, health.get(name), door.bridge.connection_state(name))
        for name, connection in sorted(door.bridge.connections.items())
    ]
    return answer(200, {"data": [*shown], "next_cursor": None})


async def check_connection(door: Door, call: Call[NoBody]) -> Answer:
    """One real authenticated call to the provider."""
    name = call.id("name")
    if name not in door.bridge.connections:
        raise NotFound(unknown("connection", name, list(door.bridge.connections)))
    result = await door.bridge.check_connection(name)
    return answer(200, {"ok": result.ok, "detail": result.detail, "duration_ms": result.duration_ms})
