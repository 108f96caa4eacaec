"""HTTP serving that the fake providers and the receiver share: one aiohttp application on one socket."""

from __future__ import annotations

import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SHUTDOWN_S: Final = 0.5  # hanging requests end before this; no other response is worth waiting for
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close sends RST instead of FIN


class HttpServer(ABC):
    """Serves its application from `start` to `stop`; a context manager."""

    _runner: web.AppRunner | None = None
    _origin: str | None = None

    @abstractmethod
    def application(self) -> web.Application:
        """A new application, for one start."""

    @property
    def origin(self) -> str:
        """`http://host:port`; RuntimeError before it listens."""
        if self._origin is None:
            raise RuntimeError("it does not listen yet: await start() first")
        return self._origin

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one. OSError if the address is in use."""
        runner = web.AppRunner(
            self.application(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, bound = runner, runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self._origin = f"http://{shown}:{bound[1]}"
        return self

    async def stop(self) -> None:
        """Stop listening; may be called more than once."""
        runner, self._runner = self._runner, None
        if runner:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def reset_connection(request: web.Request) -> None:
    """Close the connection with RST, without a response."""
    if request.transport is None:
        return
    connection: socket.socket = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    request.transport.abort()


def whole_number(text: str | None, default: int) -> int | None:
    """A query parameter as a whole number; None if it is something else."""
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
