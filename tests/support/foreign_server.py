"""Servers on loopback with scripted answers: one that speaks HTTP, one that sends raw bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it arrived; `target` is the raw request target."""

    method: str
    target: str
    headers: dict[str, str]
    body: object


@dataclass
class ForeignServer:
    """A server whose answers a test writes; `seen` holds the requests in order."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)


@asynccontextmanager
async def foreign_server(handler: Handler) -> AsyncIterator[ForeignServer]:
    """Serve every method and path with `handler`."""
    server = ForeignServer()

    async def note(request: web.Request) -> web.StreamResponse:
        sent = await request.text()
        headers = {name.lower(): value for name, value in request.headers.items()}
        server.seen.append(Seen(request.method, request.raw_path, headers, json.loads(sent) if sent else None))
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", note)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def answering(body: object = None, *, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    """A handler that always gives this answer: bytes as they are, anything else as JSON."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=data, status=status, headers={"Content-Type": "application/json", **(headers or {})})

    return answer


@asynccontextmanager
async def raw_server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """A TCP server: `answer` writes the bytes itself. Yields the base URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
