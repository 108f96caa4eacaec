"""Opening and closing the server's socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bridge.api.server import CAP, CannotListen, build_app, start_server
from bridge.domain.secret import Secret
from tests.support.api_bridge import TOKEN, Api
from tests.support.waiting import until


def build(api: Api) -> web.Application:
    """Another server before the same bridge."""
    return build_app(
        database=api.database,
        clock=api.clock,
        bridge=api.bridge,
        api_token=Secret(TOKEN),
        allowed_hosts=frozenset({"localhost"}),
        body_bytes_max=1024,
        version="1",
    )


async def get_over(path: Path) -> int:
    """The status of a request over a Unix socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://anything/healthz") as response,
    ):
        return response.status


async def test_a_unix_socket_is_for_owner_and_group_and_goes_with_the_server(sqlite_api: Api, tmp_path: Path) -> None:
    """No browser and no DNS leads to it, so any host name will do."""
    path, before = tmp_path / "api.sock", os.umask(0o022)
    os.umask(before)
    runner, address = await start_server(build(sqlite_api), f"unix:{path}")
    assert address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert os.umask(before) == before
    assert await get_over(path) == 200
    await runner.cleanup()
    assert not path.exists()


async def test_a_socket_left_by_a_dead_process_is_replaced(sqlite_api: Api, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    runner, _ = await start_server(build(sqlite_api), f"unix:{path}")
    assert await get_over(path) == 200
    await runner.cleanup()


async def test_the_socket_of_a_living_process_is_left_alone(sqlite_api: Api, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    runner, _ = await start_server(build(sqlite_api), f"unix:{path}")
    with pytest.raises(CannotListen, match="is another daemon there"):
        await start_server(build(sqlite_api), f"unix:{path}")
    assert await get_over(path) == 200
    await runner.cleanup()


async def test_a_file_that_is_no_socket_is_never_removed(sqlite_api: Api, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListen):
        await start_server(build(sqlite_api), f"unix:{path}")
    assert path.read_text() == "data"


async def test_a_port_in_use_is_an_error(sqlite_api: Api) -> None:
    with pytest.raises(CannotListen, match="in use"):
        await start_server(build(sqlite_api), sqlite_api.url.removeprefix("http://"))


async def test_ipv6_is_written_with_brackets(sqlite_api: Api) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
    runner, address = await start_server(build(sqlite_api), "[::1]:0")
    assert address.startswith("[::1]:")
    await runner.cleanup()


async def test_closing_ends_waits_and_streams_with_an_answer(sqlite_api: Api) -> None:
    """A restart must not take as long as the longest wait."""
    run = await sqlite_api.register()
    app = build(sqlite_api)
    runner, address = await start_server(app, "localhost:0")
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "localhost"}
    url = f"http://{address}/v1"
    stream = await sqlite_api.session.get(f"{url}/events/stream", headers=headers)
    await stream.content.readuntil(b"\n\n")
    waiting = asyncio.create_task(sqlite_api.session.get(f"{url}/runs/{run['id']}/wait?timeout=300", headers=headers))
    await until(lambda: len(app[CAP].busy) == 2)
    async with asyncio.timeout(60):
        await runner.cleanup()
        assert await stream.content.read() == b""
        reply = await waiting
        assert (reply.status, (await reply.json())["status"]) == (200, "queued")


def raw(line: str, *headers: str, body: str = "") -> bytes:
    """A request to this server, byte by byte."""
    head = [line, *headers, f"Authorization: Bearer {TOKEN}", "Host: localhost"]
    return "".join(f"{each}\r\n" for each in (*head, "")).encode("latin-1") + body.encode()


JSON = "Content-Type: application/json"
MALFORMED = {
    "a header twice": raw("POST /v1/runs HTTP/1.1", JSON, JSON, "Content-Length: 2", body="{}"),
    "two hosts": raw("GET /v1/runs HTTP/1.1", "Host: localhost"),
    "two lengths": raw("POST /v1/runs HTTP/1.1", JSON, "Content-Length: 2", "Content-Length: 3", body="{}"),
    "a negative length": raw("POST /v1/runs HTTP/1.1", JSON, "Content-Length: -1", body="{}"),
    "a length and chunks": raw("POST /v1/runs HTTP/1.1", JSON, "Content-Length: 2", "Transfer-Encoding: chunked"),
    "no chunk": raw("POST /v1/runs HTTP/1.1", JSON, "Transfer-Encoding: chunked", body="zz\r\n{}\r\n"),
    "an unknown encoding": raw("POST /v1/runs HTTP/1.1", JSON, "Transfer-Encoding: gzip", body="{}"),
    "an unknown expectation": raw("POST /v1/runs HTTP/1.1", JSON, "Content-Length: 2", "Expect: tea", body="{}"),
    "the same where nothing is": raw("GET /nothing HTTP/1.1", "Expect: tea"),
    "a header without a colon": raw("GET /v1/runs HTTP/1.1", "secret-of-mine"),
    "a NUL": raw("GET /v1/runs HTTP/1.1", "X: secret-of-mine\x00"),
    "a folded header": raw("GET /v1/runs HTTP/1.1", "X: a", " secret-of-mine"),
    "a long header": raw("GET /v1/runs HTTP/1.1", "X: " + "secret-of-mine" * 2000),
    "too many headers": raw("GET /v1/runs HTTP/1.1", *(f"X{n}: secret-of-mine" for n in range(500))),
    "no address": raw("GET http://[::1/secret-of-mine HTTP/1.1"),
    "a strange port": raw("GET http://h:99999999/secret-of-mine HTTP/1.1"),
    "a blank in the path": raw("GET /v1/secret-of mine HTTP/1.1"),
    "a strange version": raw("GET /v1/runs HTTP/9.9"),
    "a strange method": raw("G@T /v1/runs HTTP/1.1"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_http_is_answered_with_a_problem_and_leaves_no_traceback(
    sqlite_api: Api, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp answers a plain text that repeats what was sent, the token included."""
    runner, address = await start_server(build(sqlite_api), "127.0.0.1:0")
    try:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(request_bytes)
        async with asyncio.timeout(60):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in head.splitlines() if line.startswith("content-length:"))
            problem = json.loads(await reader.readexactly(int(length.partition(":")[2])))
        writer.close()
    finally:
        await runner.cleanup()
    assert "\r\ncontent-type: application/problem+json\r\n" in head
    assert problem["status"] in {400, 417}
    assert problem["detail"]
    assert "secret-of-mine" not in json.dumps(problem)
    assert TOKEN not in json.dumps(problem)
    assert [record for record in caplog.records if record.exc_info and record.name != "bridge.api.wire"] == []


@pytest.mark.parametrize("rest", [b"", b"zz\r\n"])
async def test_a_body_that_breaks_off_is_no_fault_of_ours(sqlite_api: Api, rest: bytes) -> None:
    app = build(sqlite_api)
    runner, address = await start_server(app, "127.0.0.1:0")
    try:
        with capture_logs() as lines:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(raw("POST /v1/runs HTTP/1.1", JSON, "Transfer-Encoding: chunked", body='5\r\n{"con\r\n'))
            await until(lambda: app[CAP].busy)
            writer.write(rest)
            writer.write_eof()
            async with asyncio.timeout(60):
                answer = await reader.read()
            writer.close()
            await until(lambda: not app[CAP].busy)
    finally:
        await runner.cleanup()
    assert not answer or b"application/problem+json" in answer
    assert [line for line in lines if line["log_level"] == "error"] == []


async def test_the_longest_query_that_is_allowed_is_read(api: Api) -> None:
    """aiohttp's own limit for a request line, 8,190 bytes, is less than what the filters may hold."""
    query = "&".join(f"metadata.key{number}={'%F0%9F%8E%88' * 1024}" for number in range(10))
    answer = await api.call("GET", f"/v1/runs?{query}")
    assert (answer.status, answer.body["data"]) == (200, [])
