"""A cap on the open connections of the API, so that idle ones never use up the process's descriptors."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
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

    def __init__(self, connections_max: int, refuse: Callable[[int, BaseException | None], web.Response]) -> None:
        """`refuse` answers what is not HTTP, by the status and the error of aiohttp."""
        self._refuse = refuse
        self.busy: set[object] = set()
        """The protocols of connections with a request under way; the middleware keeps it."""
        self.connections_max = connections_max
        self._room = connections_max
        self._logged_at = -LOG_EVERY_S

    def protocol_for(self, server: web.Server, options: Mapping[str, Any]) -> asyncio.BaseProtocol:
        """The protocol of a new connection of `server`."""
        if self._room <= 0:
            self._room = self._make_room(server)
        if self._room <= 0:
            return _Refusal()
        self._room -= 1
        return _Protocol(server, self._refuse, options)

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


class _Protocol(web.RequestHandler):
    """A connection of the API; what aiohttp answers with a plain text is answered by `refuse`."""

    __slots__ = ("_refuse",)

    def __init__(
        self,
        server: web.Server,
        refuse: Callable[[int, BaseException | None], web.Response],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._refuse = refuse

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The response to a request that is not HTTP, or in which the server itself failed; it ends the connection."""
        super().handle_error(request, status, exc, message)  # logs it, and raises if a response has begun
        response = self._refuse(status, exc)
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class CappedRunner(web.AppRunner):
    """An AppRunner whose sites take connections under a cap. `protocol`: the options of each connection."""

    def __init__(
        self, app: web.Application, cap: ConnectionCap, *, protocol: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(app, **protocol, **options)
        self._cap, self._protocol = cap, protocol

    @property
    def server(self) -> Any:
        """The factory that a site has asyncio call for each connection; aiohttp types it as its own Server."""
        server = super().server
        return server and functools.partial(self._cap.protocol_for, server, self._protocol)
