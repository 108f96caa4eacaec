"""A connection that speaks out of turn: no response is ever taken for the answer to another request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
import trustme

from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.delivery import Outcome
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderSessions
from bridge.runtime.aiohttp_internals import ClientProtocol, Connector, TimedContext, client_tls
from tests.support.posting import LOOPBACK
from tests.support.raw_server import RawExchange, answer, raw_server

Ask = Callable[[int], Awaitable[int | None]]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> TimedContext:
    """The client's TLS context, which trusts the authority."""
    context = client_tls()
    authority.configure_trust(context)
    return context


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    """The server's TLS context; None for http."""
    if request.param == "http":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(params=["provider", "receiver"])
async def ask(request: pytest.FixtureRequest, tls: ssl.SSLContext | None, trusting: TimedContext) -> AsyncIterator[Ask]:
    """Makes a request to a port; the number in the response, None if there was no usable one."""
    scheme = "http" if tls is None else "https"
    if request.param == "receiver":
        sender = Sender(LOOPBACK, timeout_s=60, tls=trusting)

        async def post(port: int) -> int | None:
            result = await sender.post(f"{scheme}://127.0.0.1:{port}/", headers={}, body=b"{}", trust=Trust.API)
            return json.loads(result.head) if result.outcome is Outcome.DELIVERED else None

        yield post
        await sender.close()
    else:
        async with ProviderSessions(trusting) as sessions:

            async def get(port: int) -> int | None:
                http = ProviderHttp(sessions, f"{scheme}://127.0.0.1:{port}", {"Authorization": "Bearer k"}, 5)
                try:
                    found = (await http.request("GET", "/runs/1")).body
                except ProviderFailure:
                    return None
                assert isinstance(found, int)
                return found

            yield get


def number_of(exchange: RawExchange) -> bytes:
    return b"%d" % exchange.number


@pytest.mark.parametrize("tls", ["http"], indirect=True)
@pytest.mark.parametrize("ask", ["receiver"], indirect=True)
async def test_a_410_on_a_used_connection_is_believed_only_if_a_new_one_brings_it_again(ask: Ask) -> None:
    """The late second answer of an earlier POST, while the next one is under way, switched its endpoint off."""

    async def script(exchange: RawExchange) -> None:
        await exchange.send(answer("410 Gone") if exchange.number == 2 else answer(body=number_of(exchange)))

    async with raw_server(script) as raw:
        assert [await ask(raw.port) for _ in range(2)] == [1, 3]
        assert raw.connections == 2


async def test_a_second_response_while_the_connection_is_idle_closes_it(ask: Ask, tls: ssl.SSLContext | None) -> None:
    again = asyncio.Event()

    async def twice(exchange: RawExchange) -> None:
        await exchange.send(answer(body=number_of(exchange)))
        await again.wait()
        await exchange.send(answer(body=number_of(exchange)))

    async with raw_server(twice, tls=tls) as raw:
        assert await ask(raw.port) == 1
        again.set()
        await asyncio.wait_for(raw.lost.wait(), 60)
        assert await ask(raw.port) == 2
        assert raw.connections == 2


@pytest.mark.parametrize("tls", ["http"], indirect=True)
async def test_a_server_that_spoke_out_of_turn_gets_a_connection_for_each_request(ask: Ask) -> None:
    """Its next second response could arrive while a request is under way, and nothing distinguishes the two."""
    again = asyncio.Event()

    async def script(exchange: RawExchange) -> None:
        await exchange.send(answer(body=number_of(exchange)))
        if exchange.number == 2:
            await again.wait()
            await exchange.send(answer(body=b"99"))

    async with raw_server(script) as raw, raw_server(script) as other:
        assert [await ask(raw.port) for _ in range(2)] == [1, 2]
        assert raw.connections == 1
        again.set()
        await asyncio.wait_for(raw.lost.wait(), 60)
        assert [await ask(raw.port) for _ in range(3)] == [3, 4, 5]
        assert raw.connections == 4
        assert [await ask(other.port) for _ in range(2)] == [1, 2]
        assert other.connections == 1


@pytest.mark.parametrize(
    "response",
    [
        lambda number: answer(body=number) + answer(body=b"99"),
        lambda number: answer(body=number) + b"HTTP/1.1 2",
        lambda number: answer(body=number) + b"x",
        lambda number: answer(body=number) + b"\r\n",
        lambda number: answer(body=number) + INTERIM,
        lambda number: answer(body=number) + INTERIM + answer(body=b"99"),
        lambda number: INTERIM + answer(body=number) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n9",
        lambda number: CHUNKED % (len(number), number) + answer(body=b"99"),
        lambda number: CHUNKED % (len(number), number) + b"H",
    ],
)
async def test_bytes_right_behind_a_response_belong_to_no_other(
    ask: Ask, tls: ssl.SSLContext | None, response: Callable[[bytes], bytes]
) -> None:
    async def script(exchange: RawExchange) -> None:
        await exchange.send(response(number_of(exchange)))

    async with raw_server(script, tls=tls) as raw:
        assert [await ask(raw.port) for _ in range(3)] == [1, 2, 3]
        assert raw.connections == 3


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_bytes_behind_a_response_without_a_body_belong_to_no_other(
    ask: Ask, tls: ssl.SSLContext | None, status: str
) -> None:
    async def script(exchange: RawExchange) -> None:
        first = f"HTTP/1.1 {status}\r\n\r\n".encode() + answer(body=b"99")
        await exchange.send(first if exchange.number == 1 else answer(body=number_of(exchange)))

    async with raw_server(script, tls=tls) as raw:
        await asyncio.gather(ask(raw.port), return_exceptions=True)  # nothing to read in it
        assert await ask(raw.port) == 2
        assert raw.connections == 2


async def test_a_response_in_single_bytes_keeps_its_connection(ask: Ask, tls: ssl.SSLContext | None) -> None:
    async def script(exchange: RawExchange) -> None:
        number = number_of(exchange)
        for byte in INTERIM + (answer(body=number) if exchange.number % 2 else CHUNKED % (len(number), number)):
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0)

    async with raw_server(script, tls=tls) as raw:
        assert [await ask(raw.port) for _ in range(4)] == [1, 2, 3, 4]
        assert raw.connections == 1


@pytest.mark.parametrize("extra", [b"", b"x", answer(body=b"99")])
async def test_a_long_response_is_read_to_its_end_and_no_further(extra: bytes) -> None:
    """A body beyond aiohttp's buffer is parsed in pieces that wait for the reader."""

    async def script(exchange: RawExchange) -> None:
        body = number_of(exchange).rjust(700_000)
        await exchange.send(answer(body=body) + extra)

    async with raw_server(script) as raw, ProviderSessions() as sessions:
        http = ProviderHttp(sessions, f"http://127.0.0.1:{raw.port}", {}, 5)
        assert [(await http.request("GET", "/")).body for _ in range(3)] == [1, 2, 3]
        assert raw.connections == (3 if extra else 1)


class Scripted(threading.Thread):
    """A server outside the event loop: `script` has one connection after another."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        super().__init__(daemon=True)
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                self._script(connection)


def read_request(connection: socket.socket) -> None:
    read = b""
    while not read.endswith((b"\r\n\r\n{}", b"\r\n\r\n")) or (read.startswith(b"POST") and read[-1:] != b"}"):
        read += connection.recv(65536) or b"\r\n\r\n{}"


@pytest.mark.parametrize("tls", ["http"], indirect=True)
async def test_a_second_response_that_nothing_has_read_yet_closes_the_connection(ask: Ask) -> None:
    """It waits in the socket at the moment when the connection is taken for the next request."""
    number, may_repeat, has_repeated = 0, threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        nonlocal number
        number += 1
        read_request(connection)
        connection.sendall(answer(body=b"%d" % number))
        may_repeat.wait(60)
        connection.sendall(answer(body=b"%d" % number))
        has_repeated.set()
        connection.recv(65536)

    server = Scripted(script)
    assert await ask(server.port) == 1
    may_repeat.set()
    has_repeated.wait(60)  # the loop stands still here
    assert await ask(server.port) == 2


@pytest.mark.parametrize("is_read", [False, True])
async def test_a_response_before_any_request_is_no_answer(is_read: bool) -> None:
    has_spoken, has_ended = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(answer(body=b"99"))
        has_spoken.set()
        with contextlib.suppress(ConnectionError):
            connection.recv(65536)
        has_ended.set()

    async def wait_for_it(*_: object) -> None:
        has_spoken.wait(60)  # the loop stands still here
        if is_read:
            assert await asyncio.to_thread(has_ended.wait, 60)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(wait_for_it)
    async with aiohttp.ClientSession(connector=Connector(ClientProtocol), trace_configs=[trace]) as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"http://127.0.0.1:{Scripted(script).port}/")


async def test_a_response_right_after_the_handshake_is_no_answer(
    tls: ssl.SSLContext | None, trusting: TimedContext
) -> None:
    has_ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(body=b"99"))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        has_ended.set()
        writer.close()

    async def wait_for_it(*_: object) -> None:
        await asyncio.wait_for(has_ended.wait(), 60)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(wait_for_it)
    connector = Connector(ClientProtocol, ssl=trusting)
    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server,
        aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as session,
    ):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{'http' if tls is None else 'https'}://127.0.0.1:{port}/")


async def test_two_credentials_never_share_a_connection() -> None:
    async def script(exchange: RawExchange) -> None:
        await exchange.send(answer(body=number_of(exchange)))

    async with raw_server(script) as raw, ProviderSessions() as sessions:
        for key in ("one", "other", "one", "other"):
            http = ProviderHttp(sessions, f"http://127.0.0.1:{raw.port}", {"Authorization": f"Bearer {key}"}, 5)
            await http.request("GET", "/")
        assert raw.connections == 2
