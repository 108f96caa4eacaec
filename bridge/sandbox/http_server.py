"""HTTP serving that the fake providers and the receiver share: one aiohttp application on one socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SHUTDOWN_S: Final = 0.5  # hanging requests end before this; no other response is worth waiting for
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close sends RST instead of FIN


class HttpServer:
    """An application that listens from `open` to `close`."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self._origin: str | None = None

    @property
    def origin(self) -> str:
        """`http://host:port`; RuntimeError before it listens."""
        if self._origin is None:
            raise RuntimeError("it does not listen yet: await start() first")
        return self._origin

    async def open(self, app: web.Application, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. OSError if the address is in use."""
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, bound = runner, runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self._origin = f"http://{shown}:{bound[1]}"

    async def close(self) -> None:
        """Stop listening; may be called more than once."""
        runner, self._runner = self._runner, None
        if runner:
            await runner.cleanup()


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
