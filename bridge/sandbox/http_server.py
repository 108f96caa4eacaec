"""Listening: one aiohttp application on one socket, for the sandbox and the receiver alike."""

from __future__ import annotations

from aiohttp import web

SHUTDOWN_S = 0.5  # hanging answers are let go of before; nothing here is worth waiting for


class Door:
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
        """Listen; port 0 takes a free one. OSError where the address is taken."""
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
        """Stop listening; more than once does no harm."""
        runner, self._runner = self._runner, None
        if runner:
            await runner.cleanup()
