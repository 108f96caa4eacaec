"""Provider requests and TLS: each refusal names its cause and what to do."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from bridge.domain.failure import FailureKind
from bridge.domain.observation import PollFailed
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderSessions, Route
from tests.support.foreign_server import answering, foreign_server


async def failure_of(url: str, *, timeout_s: float = 20.0, route: Route | None = None) -> PollFailed:
    async with ProviderSessions() as sessions:
        http = ProviderHttp(sessions, url, {}, timeout_s, route=route or Route())
        with pytest.raises(ProviderFailure) as caught:
            await http.request("GET", "/runs/1")
    return caught.value.failed


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str, **options) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(tls)
    return tls


def expired(authority: trustme.CA) -> ssl.SSLContext:
    now = datetime.now(UTC)
    return server_tls(authority, "127.0.0.1", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))


def not_yet_valid(authority: trustme.CA) -> ssl.SSLContext:
    now = datetime.now(UTC)
    return server_tls(authority, "127.0.0.1", not_before=now + timedelta(days=2), not_after=now + timedelta(days=9))


def of_another_name(authority: trustme.CA) -> ssl.SSLContext:
    return server_tls(authority, "other.test")


def of_another_authority(_: trustme.CA) -> ssl.SSLContext:
    return server_tls(trustme.CA(), "127.0.0.1")


def trusting(authority: trustme.CA, tmp_path: Path) -> Route:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return Route(ca_file=str(file))


@pytest.mark.parametrize(
    ("make", "cause", "remedy"),
    [
        (expired, "certificate has expired", "the server needs a new one"),
        (not_yet_valid, "certificate is not yet valid", "the clock of this machine"),
        (of_another_name, "certificate is not valid for '127.0.0.1'", "base_url names another host"),
        (of_another_authority, "certificate", "name its authority with ca_file"),
    ],
)
async def test_a_certificate_that_is_refused_is_named_with_what_to_do(authority, make, cause, remedy, tmp_path):
    """Only an authority that is not known is cured by ca_file."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=make(authority))
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        failed = await failure_of(url, route=trusting(authority, tmp_path))
    assert failed.kind is FailureKind.TLS
    assert cause in failed.message
    assert remedy in failed.message
    assert ("ca_file" in failed.message) is (make is of_another_authority)


def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def refuse(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x15\x03\x03\x00\x02\x02\x28")  # a fatal alert: handshake_failure
    writer.close()


def say_nothing(_: asyncio.StreamWriter) -> None:
    """The handshake hangs."""


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (hang_up, FailureKind.TLS, "no TLS connection: the server broke off the handshake"),
        (refuse, FailureKind.TLS, "handshake failure"),
        (say_nothing, FailureKind.TIMEOUT, "the TLS handshake was not finished within 0.3 s"),
    ],
)
async def test_a_handshake_that_comes_to_no_end_is_named_as_one(answer, kind, said):
    """The host can be reached: "cannot connect" would send the operator to the network."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        answer(writer)
        await reader.read()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        timeout_s = 0.3 if answer is say_nothing else 20.0
        failed = await failure_of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=timeout_s)
    assert failed.kind is kind
    assert said in failed.message


@pytest.mark.parametrize("head", [b"", b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"status": "r'])
async def test_tls_that_breaks_after_the_handshake_is_a_failure_in_plain_words(authority, head, tmp_path):
    """A record that cannot be read, before the answer or in the middle of it."""
    tls = server_tls(authority, "127.0.0.1")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = tls.wrap_bio(inward, outward, server_side=True)
        for step in (peer.do_handshake, lambda: peer.read(65536)):
            while True:
                try:
                    step()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outward.read())
                    inward.write(await reader.read(65536))
        if head:
            peer.write(head)
        writer.write(outward.read() + b"\x15\x03\x03\x00\x13" + b"\x07" * 19)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        failed = await failure_of(url, route=trusting(authority, tmp_path))
    assert failed.kind is FailureKind.TLS or (head and failed.kind is FailureKind.TRANSPORT)
    assert "the TLS connection broke: " in failed.message or (head and "the response breaks off" in failed.message)
    assert "_ssl.c" not in failed.message


async def test_https_to_a_plain_server_is_a_tls_failure():
    async with foreign_server(answering({})) as server:
        failed = await failure_of(server.url.replace("http:", "https:"))
    assert (failed.kind, failed.message) == (
        FailureKind.TLS,
        "GET /runs/1: no TLS connection: the server does not speak TLS on this port",
    )
