"""A cap on the open connections of the API, so that idle ones never use up the process's descriptors."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any, Final

import structlog
from aiohttp import web

log = structlog.get_logger()
CLOSED_SHARE: Final = 0.125  # of the cap, closed at once: finding the idle ones takes a look at all
LOG_EVERY_S: Final = 60.0


class ConnectionCap:
    """Called by asyncio for the protocol of each new connection.

    At the cap the oldest connections without a request under way are closed. If every one has one, the new connection
    is refused.
    """

    def __init__(self, connections_max: int) -> None:
        self.busy: set[object] = set()
        """The protocols of connections with a request under way; the middleware keeps it."""
        self.connections_max = connections_max
        self._room = connections_max
        self._logged_at = -LOG_EVERY_S

    def protocol_for(self, server: web.Server) -> asyncio.BaseProtocol:
        """The protocol of a new connection of `server`."""
        if self._room <= 0:
            self._room = self._make_room(server)
        if self._room <= 0:
            return _Refusal()
        self._room -= 1
        return server()

    def _make_room(self, server: web.Server) -> int:
        """Close idle connections if too many are open; returns how many new ones fit."""
        connections = [each for each in server.connections if each.transport is not None]  # None: closed just now
        room = self.connections_max - len(connections)
        wanted = max(1, int(self.connections_max * CLOSED_SHARE)) - room
        if wanted <= 0:
            return room
        idle = [each for each in connections if each not in self.busy][:wanted]
        for each in idle:
            each.force_close()
        self._log(len(connections), len(idle))
        return room + len(idle)

    def _log(self, count: int, closed: int) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning(
                "connections.capped",
                open=count,
                connections_max=self.connections_max,
                closed=closed,
                advice="clients hold more connections than the API takes; raise the limit of open files "
                "(LimitNOFILE in the unit, ulimit -n) if they are meant to",
            )


class _Refusal(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class CappedRunner(web.AppRunner):
    """An AppRunner whose sites take connections under a cap."""

    def __init__(self, app: web.Application, cap: ConnectionCap, **options: Any) -> None:
        super().__init__(app, **options)
        self._cap = cap

    @property
    def server(self) -> Any:
        """The factory that a site has asyncio call for each connection; aiohttp types it as its own Server."""
        server = super().server
        return server and functools.partial(self._cap.protocol_for, server)
