"""A raw-socket HTTP server that follows a script byte by byte; of HTTP it only knows how to read one request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

LOOP_TURNS = 10
Script = Callable[["RawExchange"], Awaitable[None]]


class RawExchange:
    """One request on one connection, and the means to answer it byte by byte."""

    def __init__(self, request: bytes, number: int, connection: int, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.number = number
        self.connection = connection
        self.is_open = True
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send `data` and wait until the other side takes it."""
        self._writer.write(data)
        await self._writer.drain()

    async def is_read(self) -> None:
        """Let the client, which runs on this event loop, read what was sent."""
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)

    def close(self) -> None:
        """End the connection after this answer."""
        self.is_open = False

    def reset(self) -> None:
        """Cut the connection off with RST."""
        self.is_open = False
        self._writer.transport.abort()


class RawServer:
    """Answers every request with `script`; remembers the requests and counts the connections."""

    def __init__(self, script: Script, *, is_silent: bool = False) -> None:
        self.script = script
        self.is_silent = is_silent
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.lost = asyncio.Event()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        connection = self.connections
        try:
            while not self.is_silent:
                exchange = RawExchange(await _read_request(reader), len(self.requests) + 1, connection, writer)
                self.requests.append(exchange.request)
                self.asked.set()
                await self.script(exchange)
                if not exchange.is_open:
                    break
            else:
                await asyncio.Event().wait()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            self.lost.set()
        except asyncio.CancelledError:
            pass  # the test is over; asyncio.streams would print this one
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if not writer.is_closing() and self.lost.is_set() else writer.close()

    async def stop(self) -> None:
        """End every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def raw_server(script: Script, *, tls: ssl.SSLContext | None = None, is_silent: bool = False):
    """A RawServer on a free port of 127.0.0.1; `is_silent` never reads nor answers."""
    raw = RawServer(script, is_silent=is_silent)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, ssl=tls)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        await raw.stop()


def answer(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """A complete and correct answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(data: bytes, *, then_closes: bool = False) -> Script:
    """A script that sends the same bytes each time."""

    async def script(exchange: RawExchange) -> None:
        await exchange.send(data)
        if then_closes:
            exchange.close()

    return script


async def hang(_exchange):
    """Never answer."""
    await asyncio.Event().wait()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head
