from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web
from multidict import CIMultiDict

from bridge.domain.failure import FailureKind
from bridge.providers.failures import error_text, failure_kind, redirect_target
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderSessions, RequestSlots
from tests.support.foreign_server import answering, foreign_server, raw_server

KEY = "sk-very-secret-0123456789"


async def ask(url: str, *, timeout_s: float = 20.0, path: str = "/runs/1", **settings):
    async with ProviderSessions() as sessions:
        http = ProviderHttp(sessions, url, {"Authorization": f"Bearer {KEY}"}, timeout_s, **settings)
        return await http.request("GET", path, query=[("access_token", "hidden")])


async def failure_of(url: str, **settings):
    with pytest.raises(ProviderFailure) as caught:
        await ask(url, **settings)
    failed = caught.value.failed
    assert failed.message.startswith("GET /runs/1: ")
    assert "hidden" not in failed.message
    assert KEY not in failed.message
    assert len(failed.message) <= 400
    return failed


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (301, {"Location": "/elsewhere"}, FailureKind.GATEWAY),
        (304, {}, FailureKind.REJECTED),
        (400, {}, FailureKind.REJECTED),
        (401, {}, FailureKind.UNAUTHORIZED),
        (403, {}, FailureKind.UNAUTHORIZED),
        (403, {"x-ratelimit-remaining": "17"}, FailureKind.UNAUTHORIZED),
        (403, {"x-ratelimit-remaining": "0"}, FailureKind.THROTTLED),
        (403, {"Retry-After": "5"}, FailureKind.THROTTLED),
        (404, {}, FailureKind.NOT_FOUND),
        (410, {}, FailureKind.NOT_FOUND),
        (418, {}, FailureKind.REJECTED),
        (422, {}, FailureKind.REJECTED),
        (429, {}, FailureKind.THROTTLED),
        (500, {}, FailureKind.SERVER_ERROR),
        (502, {}, FailureKind.SERVER_ERROR),
        (503, {}, FailureKind.SERVER_ERROR),
        (529, {}, FailureKind.SERVER_ERROR),
    ],
)
async def test_each_status_has_its_meaning(status, headers, kind):
    assert failure_kind(status, CIMultiDict(headers)) is kind
    async with foreign_server(answering({"message": "no"}, status=status, headers=headers)) as server:
        failed = await failure_of(server.url)
    assert (failed.kind, failed.status) == (kind, status)
    assert f"HTTP {status}" in failed.message
    assert len(server.seen) == 1, "neither followed nor repeated"


@pytest.mark.parametrize("status", [429, 403, 500, 503, 404])
async def test_a_failure_carries_the_pause_that_was_asked_for(status):
    async with foreign_server(answering({}, status=status, headers={"Retry-After": "7"})) as server:
        assert (await failure_of(server.url)).retry_after_s == 7


async def test_a_quota_reset_is_the_pause_of_a_429():
    async with foreign_server(answering({}, status=429, headers={"x-ratelimit-reset": "40"})) as server:
        assert (await failure_of(server.url)).retry_after_s == 40


async def test_a_running_answer_may_ask_for_a_pause():
    async with foreign_server(answering({"a": [1]}, headers={"Openai-Poll-After-Ms": "1500"})) as server:
        answer = await ask(server.url)
    assert (answer.status, answer.body, answer.poll_after_s) == (200, {"a": [1]}, 1.5)


async def test_the_request_is_plain():
    """Identity encoding, no cookies, the key as given; nothing of the environment."""
    async with (
        foreign_server(answering({}, headers={"Set-Cookie": "a=b; Path=/"})) as server,
        ProviderSessions() as sessions,
    ):
        http = ProviderHttp(sessions, server.url + "/api/", {"Authorization": f"Bearer {KEY}"}, 5)
        await http.request("GET", "/runs/..%2F..%2Fkeys%3Fx", query=[("run_id", "a&b"), ("limit", "1")])
        await http.request("POST", "/runs", json_body={"inputs": "é"})
    first, second = server.seen
    assert first.target == "/api/runs/..%2F..%2Fkeys%3Fx?run_id=a%26b&limit=1"
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["user-agent"].startswith("runbridge/")
    assert "cookie" not in second.headers
    assert (second.headers["content-type"], second.body) == ("application/json", {"inputs": "é"})


@pytest.mark.parametrize(
    "body",
    [b"", b"[" * 200_000, b'{"status": "runn', b"OK"],
    ids=["empty", "deep", "cut", "text"],
)
async def test_a_200_that_is_no_json_is_a_bad_payload(body):
    async with foreign_server(answering(body)) as server:
        failed = await failure_of(server.url)
    assert (failed.kind, failed.status) == (FailureKind.BAD_PAYLOAD, 200)


async def test_a_gigabyte_is_refused_by_its_announcement():
    async def announce(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{")
        await writer.drain()

    async with raw_server(announce) as url:
        assert (await failure_of(url)).kind is FailureKind.BAD_PAYLOAD


async def test_an_endless_body_is_cut_off_at_the_cap():
    """Chunked, so nothing announces its size; the server notices that we have left."""
    sent = 0

    async def pour(_reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent < 2**30:
            writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    async with raw_server(pour) as url:
        assert (await failure_of(url, body_bytes_max=2**20)).kind is FailureKind.BAD_PAYLOAD
    assert sent < 2**29


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"],
    ids=["silent", "head", "body"],
)
async def test_one_deadline_covers_head_and_body(start):
    gone = asyncio.Event()

    async def stall(reader, writer):
        writer.write(start)
        await writer.drain()
        await reader.read()  # until we hang up
        gone.set()

    async with raw_server(stall) as url:
        failed = await failure_of(url, timeout_s=0.2)
        await asyncio.wait_for(gone.wait(), 60)
    assert failed.kind is FailureKind.TIMEOUT


async def test_a_body_that_drips_does_not_outlive_the_deadline():
    async def drip(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with raw_server(drip) as url:
        assert (await failure_of(url, timeout_s=0.3)).kind is FailureKind.TIMEOUT


async def test_an_error_whose_body_never_comes_is_still_that_error(monkeypatch):
    monkeypatch.setattr("bridge.providers.http.ERROR_READ_S", 0.1)

    async def half(reader, writer):
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 90\r\nRetry-After: 4\r\n\r\n{")
        await writer.drain()
        await reader.read()

    async with raw_server(half) as url:
        failed = await failure_of(url)
    assert (failed.kind, failed.retry_after_s) == (FailureKind.SERVER_ERROR, 4)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "the server closed the connection without a response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the server sent no valid HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "the server speaks TLS on this port: base_url begins with https:// there"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", "the response breaks off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 299_999, "the server sent no valid HTTP"),
    ],
    ids=["closed", "garbage", "TLS", "cut", "huge header"],
)
async def test_a_connection_that_breaks_is_a_transport_failure(sent, said):
    async def answer(_reader, writer):
        writer.write(sent)
        await writer.drain()

    async with raw_server(answer) as url:
        failed = await failure_of(url)
    assert failed.kind is FailureKind.TRANSPORT
    assert said in failed.message
    assert "Error" not in failed.message


async def test_a_reset_is_a_transport_failure():
    async def reset(_reader, writer):
        writer.transport.abort()

    async with raw_server(reset) as url:
        failed = await failure_of(url)
    assert (failed.kind, failed.message) == (
        FailureKind.TRANSPORT,
        "GET /runs/1: the server closed the connection without a response",
    )


async def test_a_closed_port_is_a_connect_failure():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        failed = await failure_of(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert failed.kind is FailureKind.CONNECT
    assert failed.message.endswith("(Connection refused)")


async def test_a_name_that_does_not_exist_is_a_dns_failure(monkeypatch):
    def nowhere(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    assert (await failure_of("http://no-such-host.invalid")).kind is FailureKind.DNS


async def test_proxy_variables_are_not_heeded(monkeypatch):
    """The key would go to the host that the variable names."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with foreign_server(answering({"a": 1})) as server:
        assert (await ask(server.url)).body == {"a": 1}


async def test_a_key_with_a_line_break_is_a_failure_that_does_not_show_it():
    async with foreign_server(answering({})) as server, ProviderSessions() as sessions:
        http = ProviderHttp(sessions, server.url, {"Authorization": "Bearer abc\r\nX-Evil: 1"}, 5)
        with pytest.raises(ProviderFailure) as caught:
            await http.request("GET", "/runs/1")
    assert caught.value.failed.kind is FailureKind.REJECTED
    assert "abc" not in str(caught.value)
    assert server.seen == []


async def test_a_key_that_the_server_repeats_is_not_shown():
    body = {"error": {"message": f"Incorrect key provided: {KEY}\n\x1b[31m see the docs " + "x" * 500}}
    async with foreign_server(answering(body, status=401)) as server:
        failed = await failure_of(server.url)
    assert "Incorrect key provided: ****" in failed.message
    assert failed.message.isprintable()


@pytest.mark.parametrize("key", [KEY, "sk-" + "0123456789" * 30], ids=["short", "longer than what is quoted"])
@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nX-Key : %b\r\n\r\n{}",
        b"who is %b\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /login/%b?next=%b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<title>%b</title>",
        b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nno page for %b",
    ],
    ids=["header", "status line", "redirect", "web page", "text"],
)
async def test_a_key_that_comes_back_in_any_part_of_a_response_is_not_shown(key, response):
    async def answer(_reader, writer):
        writer.write(response.replace(b"%b", key.encode()))
        await writer.drain()

    async with raw_server(answer) as url, ProviderSessions() as sessions:
        http = ProviderHttp(sessions, url, {"Authorization": f"Bearer {key}"}, 5)
        with pytest.raises(ProviderFailure) as caught:
            await http.request("GET", "/runs/1")
    assert key[:20] not in caught.value.failed.message
    assert "****" in caught.value.failed.message


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("file:///etc/passwd?k=v", "file:/etc/passwd"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ("//sso.example/login?next=/", "//sso.example/login"),
        ("/login?next=/", "/login"),
        ("", ""),
    ],
)
def test_a_redirect_is_named_with_its_scheme_and_host_where_it_has_them(location, named):
    assert redirect_target(location) == (f" to {named}" if named else "")


async def test_a_redirect_names_the_port():
    headers = {"Location": "https://user:hunter2@sso.example:8443/login?from=x"}
    async with foreign_server(answering({}, status=302, headers=headers)) as server:
        assert "a redirect to https://sso.example:8443/login, " in (await failure_of(server.url)).message


async def test_neither_client_nor_failure_shows_the_key_in_its_repr():
    async with ProviderSessions() as sessions:
        http = ProviderHttp(sessions, "http://127.0.0.1:9", {"Authorization": f"Bearer {KEY}"}, 5)
        with pytest.raises(ProviderFailure) as caught:
            await http.request("GET", "/")
    assert KEY not in repr(http) + repr(caught.value) + repr(caught.value.failed)


async def test_being_cancelled_is_no_failure_of_the_provider():
    """Stopping the daemon must look like stopping, not like a timeout."""
    arrived = asyncio.Event()

    async def hang(_request):
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    async with foreign_server(hang) as server:
        task = asyncio.create_task(ask(server.url))
        await asyncio.wait_for(arrived.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {"code": "not_found", "message": "Workflow run not found.", "status": 404},
            ("Workflow run not found.", "not_found"),
        ),
        ({"detail": "Workflow run not found"}, ("Workflow run not found", None)),
        ({"detail": {"code": "HTTP_EXCEPTION", "message": "no"}}, ("no", "HTTP_EXCEPTION")),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, ("field required", None)),
        ({"error": "bad"}, ("bad", None)),
        ({"code": "x"}, (None, "x")),
        ({"message": ""}, (None, None)),
        ([], (None, None)),
        (7, (None, None)),
    ],
    ids=str,
)
def test_the_providers_own_words_are_found_in_every_error_shape(body, told):
    assert error_text(body) == told


async def test_a_request_whose_kept_connection_breaks_is_not_sent_a_second_time():
    """Whether to ask again, and when, is for the cadence: min_interval and the rate limit hold for that too."""
    requests = []

    async def answer_once_then_break(request: web.Request) -> web.StreamResponse:
        requests.append(request.path)
        if len(requests) > 1:
            request.transport.abort()
        return web.json_response({})

    async with foreign_server(answer_once_then_break) as server, ProviderSessions() as sessions:
        http = ProviderHttp(sessions, server.url, {}, 20.0)
        await http.request("GET", "/runs/1")
        with pytest.raises(ProviderFailure) as caught:
            await http.request("GET", "/runs/1")
    assert caught.value.failed.kind is FailureKind.TRANSPORT
    assert len(requests) == 2


async def test_requests_of_all_connections_together_stay_below_the_limit_of_open_files():
    """A daemon with `ulimit -n 256` and many connections must not run out of descriptors."""
    under_way, most, arrived, go = 0, 0, asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        arrived.set()
        await go.wait()
        under_way -= 1
        return web.json_response({})

    async with foreign_server(handler) as server, ProviderSessions(requests_max=2) as sessions:
        clients = [ProviderHttp(sessions, server.url, {"Authorization": f"Bearer {n}"}, 20.0) for n in range(6)]
        asked = [asyncio.create_task(client.request("GET", "/runs/1")) for client in clients]
        await arrived.wait()
        go.set()
        assert [(await each).status for each in asked] == [200] * 6
    assert most <= 2


async def test_a_request_that_stops_waiting_takes_no_turn() -> None:
    slots = RequestSlots(1)
    assert slots.take()
    first, second = (asyncio.create_task(slots.wait_and_take()) for _ in range(2))
    await asyncio.sleep(0)
    slots.give_back()
    first.cancel()
    await second
    assert first.cancelled()
    assert not slots.take()
