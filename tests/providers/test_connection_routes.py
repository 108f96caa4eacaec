"""A connection's own headers, certificates and proxy: used where they are named, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from bridge.domain.connection import Connection
from bridge.domain.secret import Secret
from bridge.providers import open_http
from bridge.providers.http import ProviderFailure, ProviderSessions
from tests.support.raw_server import answer, raw_server, says


@dataclass
class Proxy:
    """An HTTP proxy that forwards everything to one port and keeps the heads that it was sent."""

    target: int
    port: int = 0
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        there, forward = await asyncio.open_connection("127.0.0.1", self.target)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            forward.write(head)
        await asyncio.gather(_copy(reader, forward), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def provider(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[web.BaseRequest]]]:
    """A provider that answers every request with `{}`: its port, and what it was asked."""
    asked: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request)
        return web.json_response({})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy


async def fetch(connection: Connection) -> None:
    async with ProviderSessions() as sessions:
        assert (await open_http(sessions, connection).request("GET", "/runs/1")).body == {}


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_headers_go_along_and_never_replace_the_key() -> None:
    async with provider() as (port, asked):
        headers = {"CF-Access-Client-Id": "me", "Authorization": "Basic abc"}
        await fetch(Connection("c", "dify", f"http://127.0.0.1:{port}", Secret("k"), headers=headers))
    assert asked[0].headers["CF-Access-Client-Id"] == "me"
    assert asked[0].headers.getall("Authorization") == ["Bearer k"]


async def test_the_value_of_a_header_is_in_no_message() -> None:
    headers = {"CF-Access-Client-Secret": "canary\r\n"}
    with pytest.raises(ProviderFailure) as refused:
        await fetch(Connection("c", "dify", "http://127.0.0.1:9", Secret("k"), headers=headers))
    assert "canary" not in str(refused.value)
    assert "canary" not in repr(Connection("c", "dify", "http://127.0.0.1:9", Secret("k"), headers=headers))


async def test_a_named_certificate_is_trusted_and_no_other(tls: ssl.SSLContext, tmp_path: Path) -> None:
    async with provider(tls) as (port, _):
        url = f"https://127.0.0.1:{port}"
        await fetch(Connection("c", "dify", url, Secret("k"), ca_file=str(tmp_path / "ca.pem")))
        with pytest.raises(ProviderFailure) as refused:
            await fetch(Connection("c", "dify", url, Secret("k")))
    assert "certificate" in str(refused.value)


async def test_a_named_proxy_is_used_with_its_password() -> None:
    async with provider() as (port, asked), proxy_to(port) as proxy:
        url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        await fetch(Connection("c", "dify", "http://provider.example", Secret("k"), proxy=url))
    assert proxy.heads[0].startswith(b"GET http://provider.example/runs/1 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:p@ss") in proxy.heads[0]
    assert asked[0].headers["Host"] == "provider.example"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("status", "said"), [(407, "user and password in the URL of `proxy`"), (403, "HTTP 403")])
async def test_a_proxy_that_refuses_is_named_with_what_to_do(scheme: str, status: int, said: str) -> None:
    async with raw_server(says(answer(f"{status} No"), then_closes=True)) as proxy, ProviderSessions() as sessions:
        url = f"http://user:hunter2@127.0.0.1:{proxy.port}"
        http = open_http(sessions, Connection("c", "dify", f"{scheme}://provider.example", Secret("k"), proxy=url))
        with pytest.raises(ProviderFailure, match=said) as caught:
            await http.request("GET", "/runs/1")
    assert "hunter2" not in str(caught.value)
    assert scheme == "http" or "the proxy opens no tunnel" in str(caught.value)


def refuse_tunnels(listener: socket.socket, count: int) -> None:
    """Answer at once, from a thread: before this loop has turned again."""
    for _ in range(count):
        connection, _ = listener.accept()
        with connection:
            while not connection.recv(4096).endswith(b"\r\n\r\n"):
                pass
            connection.sendall(answer("407 No"))


async def test_a_proxy_that_answers_before_the_loop_has_turned_is_heard() -> None:
    """aiohttp says only after the CONNECT that it expects an answer; a proxy on the same machine is quicker."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(refuse_tunnels, listener, 5)
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with ProviderSessions() as sessions:
            http = open_http(sessions, Connection("c", "dify", "https://provider.example", Secret("k"), proxy=proxy))
            for _ in range(5):
                with pytest.raises(ProviderFailure, match="the proxy opens no tunnel: HTTP 407"):
                    await http.request("GET", "/runs/1")
        served.result(10)


async def test_a_proxy_that_is_not_there_is_called_the_proxy() -> None:
    async with ProviderSessions() as sessions:
        http = open_http(
            sessions, Connection("c", "dify", "http://provider.example", Secret("k"), proxy="http://127.0.0.1:1")
        )
        with pytest.raises(ProviderFailure, match=r"cannot connect to the proxy 127\.0\.0\.1:1 \(Connection refused\)"):
            await http.request("GET", "/runs/1")


async def test_https_goes_through_the_proxy_in_a_tunnel(tls: ssl.SSLContext, tmp_path: Path) -> None:
    async with provider(tls) as (port, asked), proxy_to(port) as proxy:
        ca_file, proxy_url = str(tmp_path / "ca.pem"), f"http://127.0.0.1:{proxy.port}"
        url = f"https://127.0.0.1:{port}"
        await fetch(Connection("c", "dify", url, Secret("k"), ca_file=ca_file, proxy=proxy_url))
    assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
    assert b"Bearer" not in proxy.heads[0]
    assert asked[0].headers["Authorization"] == "Bearer k"


async def test_the_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with provider() as (port, asked):
        await fetch(Connection("c", "dify", f"http://127.0.0.1:{port}", Secret("k")))
    assert len(asked) == 1
