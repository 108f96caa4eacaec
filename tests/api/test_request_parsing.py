"""Authentication, and the form of a request, which is checked before its content."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator

import pytest

from bridge.api import request_parsing
from bridge.api.routes import ROUTES
from tests.support.api_bridge import BODY_BYTES_MAX, TOKEN, Api

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = b'{"connection": "dify-prod", "provider_run_id": "r-1"}'


async def raw(api: Api, text: str | bytes) -> bytes:
    """The answer to these bytes on a bare socket."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text if isinstance(text, bytes) else text.encode())
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("line", "header", "status"),
    [
        (b"GET /v1/events/stream", b"Last-Event-ID: evt_\xff", b" 404 "),
        (b"GET /v1/events?after=%FF", b"X: \xff", b" 404 "),
        (b"GET /v1/runs/%FF", b"X: \xff", b" 404 "),
        (b"POST /v1/runs", b"traceparent: 00-\xff\r\ntracestate: a=\xff", b" 201 "),
    ],
)
async def test_a_byte_that_is_no_utf_8_names_nothing(shared: Api, line: bytes, header: bytes, status: bytes) -> None:
    """No database takes half of a surrogate pair, as which aiohttp reads such a byte."""
    rest = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(RUN), RUN)
    body = rest if line.startswith(b"POST") else b"\r\n"
    request = b"%b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n%b\r\n%b"
    answer = await raw(shared, request % (line, TOKEN.encode(), header, body))
    assert status in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_everything_but_the_open_pages_needs_the_token(shared: Api, route: object) -> None:
    assert hasattr(route, "path")
    path = route.path.replace("{id}", "x").replace("{name}", "x")
    for token in (None, "wrong", TOKEN + "x", TOKEN[:-1], ""):
        reply = await shared.call(route.method, path, token=token)  # type: ignore[attr-defined]
        assert (reply.status == 401) is not route.is_open  # type: ignore[attr-defined]
        if reply.status == 401:
            wrong = ', error="invalid_token"' if token else ""  # RFC 6750: no code where there is no token at all
            assert reply.headers["WWW-Authenticate"] == f'Bearer realm="runbridge"{wrong}'
            assert TOKEN not in reply.content.decode()


@pytest.mark.parametrize("path", ["/v1", "/v1/nope", "/v1/runs/a/b/c", "/v1/../v1/runs"])
async def test_what_is_under_v1_is_shown_only_to_those_with_the_token(shared: Api, path: str) -> None:
    assert (await shared.call("GET", path, token=None)).status == 401


@pytest.mark.parametrize("value", ["Basic abc", TOKEN, f"bearer{TOKEN}", "Bearer \xff"])
async def test_a_token_in_another_shape_is_none(shared: Api, value: str) -> None:
    reply = await shared.call("GET", "/v1/runs", token=None, headers={"Authorization": value})
    assert reply.status == 401


async def test_the_scheme_may_be_spelled_in_any_case(shared: Api) -> None:
    reply = await shared.call("GET", "/v1/runs", token=None, headers={"Authorization": f"BEARER {TOKEN}"})
    assert reply.status == 200


@pytest.mark.parametrize(
    "host", ["evil.example.org", "127.0.0.1.evil.example.org", "localhost.", "127.0.0.1:x", "[::1]", "", "127.0.0.1@x"]
)
@pytest.mark.parametrize("path", ["/v1/runs", "/healthz", "/", "/nope"])
async def test_another_host_name_is_refused_everywhere(shared: Api, host: str, path: str) -> None:
    """A web page whose name was made to point here must read nothing, health included."""
    reply = await shared.call("GET", path, headers={"Host": host})
    assert reply.status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9999"])
async def test_our_host_names_are_served_at_any_port(shared: Api, host: str) -> None:
    """Behind a proxy or a forwarded port the port is another one."""
    assert (await shared.call("GET", "/healthz", headers={"Host": host})).status == 200


async def test_a_request_without_or_with_two_host_names_is_refused(shared: Api) -> None:
    for hosts in ("", "Host: localhost\r\nHost: evil.example.org\r\n"):
        answer = await raw(shared, f"GET /healthz HTTP/1.1\r\n{hosts}\r\n")
        assert answer.split(b" ")[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin1"]
)
async def test_a_body_is_json_and_says_so(shared: Api, content_type: str) -> None:
    """A form on a foreign web page can send anything but this type."""
    reply = await shared.call("POST", "/v1/runs", data=RUN, headers={"Content-Type": content_type})
    assert reply.status == 415


async def test_json_may_name_its_charset(shared: Api) -> None:
    reply = await shared.call(
        "POST", "/v1/runs", data=b"{}", headers={"Content-Type": 'Application/JSON; charset="UTF-8"'}
    )
    assert reply.status == 422


async def test_a_compressed_body_is_refused(shared: Api) -> None:
    reply = await shared.call("POST", "/v1/runs", data=gzip.compress(RUN), headers={"Content-Encoding": "gzip"})
    assert (reply.status, "compressed" in reply.body["detail"]) == (415, True)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused_with_the_limit(shared: Api, chunked: bool) -> None:
    too_much = b'{"metadata": "' + b"x" * BODY_BYTES_MAX + b'"}'

    async def in_chunks() -> AsyncIterator[bytes]:
        yield too_much

    reply = await shared.call("POST", "/v1/runs", data=in_chunks() if chunked else too_much)
    assert (reply.status, str(BODY_BYTES_MAX) in reply.body["detail"]) == (413, True)
    batch = await shared.call("POST", "/v1/runs/batch", data=b'{"runs": ["' + b"x" * BODY_BYTES_MAX + b'"]}')
    assert batch.status == 200


async def test_a_body_that_does_not_arrive_is_not_waited_for_long(shared: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_parsing, "BODY_TIMEOUT_S", 0.05)
    head = f"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    answer = await raw(shared, head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    assert b" 408 " in answer.splitlines()[0]


async def test_a_post_that_needs_nothing_needs_no_body(shared: Api) -> None:
    for body in (None, {}):
        assert (await shared.call("POST", "/v1/connections/dify-prod/check", body)).status == 200


async def test_every_answer_forbids_caching_sniffing_and_framing(shared: Api) -> None:
    for path in ("/v1/runs", "/v1/nope", "/", "/healthz", "/openapi.json", "/metrics"):
        headers = (await shared.call("GET", path)).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Request-Id"].startswith("req_")
        assert headers["Server"] == "runbridge"
        assert "Access-Control-Allow-Origin" not in headers


async def test_an_address_that_is_not_there_is_a_problem_document_too(shared: Api) -> None:
    reply = await shared.call("GET", "/v1/nope")
    assert (reply.status, reply.headers["Content-Type"]) == (404, "application/problem+json")
    assert reply.body["title"] == "Not Found"
    wrong = await shared.call("PUT", "/v1/runs")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD, POST")
    wrong = await shared.call("PUT", "/v1/runs/batch")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST"), "the methods of a run do not answer here"
    assert wrong.headers["Content-Type"] == "application/problem+json"
    assert (await shared.call("OPTIONS", "/v1/runs")).status == 405


async def test_head_is_get_without_a_body(shared: Api) -> None:
    for path in ("/healthz", "/v1/runs", "/"):
        reply = await shared.call("HEAD", path)
        assert (reply.status, reply.content) == (200, b"")
    assert (await shared.call("HEAD", "/v1/events/stream")).status == 404


async def test_what_is_no_http_is_refused_and_never_logged(shared: Api, caplog: pytest.LogCaptureFixture) -> None:
    """The broken line may hold the token."""
    with caplog.at_level(logging.DEBUG):
        answer = await raw(shared, f"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN}\0\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    assert TOKEN not in caplog.text
