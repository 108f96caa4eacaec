"""Bodies that are packed, too large, or both."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from bridge.domain.failure import FailureKind
from bridge.domain.observation import PollFailed
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderResponse, ProviderSessions
from bridge.providers.partial_json import RunFields
from tests.support.foreign_server import answering, foreign_server, raw_server


async def ask(url: str, *, fields: RunFields | None = None, body_bytes_max: int = 2**23) -> ProviderResponse:
    async with ProviderSessions() as sessions:
        http = ProviderHttp(sessions, url, {}, 20.0, body_bytes_max)
        return await http.request("GET", "/runs/1", fields=fields)


async def failure_of(url: str, **settings: Any) -> PollFailed:
    with pytest.raises(ProviderFailure) as caught:
        await ask(url, **settings)
    return caught.value.failed


async def test_a_gzip_bomb_is_not_even_unpacked_in_part():
    """A chunk of 64 KiB can hold 64 MiB of blanks."""
    async with foreign_server(answering(gzip.compress(b" " * 2**27), headers={"Content-Encoding": "gzip"})) as server:
        tracemalloc.start()
        try:
            assert (await failure_of(server.url, body_bytes_max=2**20)).kind is FailureKind.BAD_PAYLOAD
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak_bytes < 2**24


async def test_gzip_is_understood_though_it_was_not_asked_for():
    async with foreign_server(answering(gzip.compress(b'{"a": 1}'), headers={"Content-Encoding": "gzip"})) as server:
        assert (await ask(server.url)).body == {"a": 1}
    async with foreign_server(answering(zlib.compress(b'{"a": 1}'), headers={"Content-Encoding": "deflate"})) as server:
        assert (await ask(server.url)).body == {"a": 1}


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b" " * 2**27), "gzip"),
        (gzip.compress(b"{}")[:-9], "gzip"),
        (gzip.compress(b"{}") + b" " * 100_000 + b"x", "gzip"),
        (b"plain", "gzip"),
        (b"\x0b\x02\x80{}\x03", "br"),
        (gzip.compress(gzip.compress(b"{}")), "gzip, gzip"),
    ],
    ids=["bomb", "cut", "trailer", "not gzip", "brotli", "twice"],
)
async def test_packed_bodies_that_are_bombs_broken_or_unknown_are_bad_payloads(body, encoding):
    async with foreign_server(answering(body, headers={"Content-Encoding": encoding})) as server:
        failed = await failure_of(server.url)
    assert failed.kind is FailureKind.BAD_PAYLOAD
    assert "an empty body" not in failed.message


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(b'{"a": 1}'), {}),
        (gzip.compress(b'{"a"') + gzip.compress(b": 1}"), {"Content-Encoding": "gzip"}),
        (zlib.compress(b'{"a": 1}', wbits=-15), {"Content-Encoding": "deflate"}),
        (b' {"a": 1}', {"Content-Encoding": "gzip"}),
        (b'{"a": 1}', {"Content-Encoding": "br"}),
    ],
    ids=["no header", "two members", "raw deflate", "unpacked, gzip", "unpacked, br"],
)
async def test_the_bytes_say_how_a_body_is_packed(body, headers):
    """Proxies drop the header, or leave it on what they have unpacked."""
    async with foreign_server(answering(body, headers=headers)) as server:
        assert (await ask(server.url)).body == {"a": 1}


async def test_a_single_byte_is_a_body():
    async with foreign_server(answering(b"7", headers={"Content-Encoding": "identity"})) as server:
        assert (await ask(server.url)).body == 7


async def test_an_oversize_answer_that_does_not_end_is_not_fetched_again_at_once():
    async def pour(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b" " * 80_000)
        await writer.drain()

    async with raw_server(pour) as url:
        failed = await failure_of(url, body_bytes_max=70_000, fields=RunFields(frozenset({"status"})))
    assert failed.kind is FailureKind.TRANSPORT
    assert failed.retry_after_s >= 10
