"""The sender and TLS: which certificates are trusted, and what each refusal says."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.delivery import Outcome
from bridge.runtime.aiohttp_internals import client_tls
from tests.support.posting import LOOPBACK
from tests.support.raw_server import answer, raw_server, says

HOST = "hooks.test"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


async def lookup(name):
    return ["127.0.0.1"]


@pytest.fixture(scope="module")
def trusting(authority):
    tls = client_tls()
    authority.configure_trust(tls)
    return tls


@pytest.fixture
async def sender(trusting):
    made = Sender(LOOPBACK, timeout_s=60, lookup=lookup, tls=trusting)
    yield made
    await made.close()


def server_tls(authority, *names, **options):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(tls)
    return tls


async def post(sender, tls, host=HOST):
    async with raw_server(says(answer("200 OK", b"fine")), tls=tls) as raw:
        result = await sender.post(f"https://{host}:{raw.port}/", headers={}, body=b"{}", trust=Trust.API)
    return result, raw


async def test_a_trusted_certificate_of_the_right_name_is_believed(sender, authority):
    result, _ = await post(sender, server_tls(authority, HOST))
    assert (result.outcome, result.head) == (Outcome.DELIVERED, b"fine")
    assert set(result.phases) == {"dns", "connect", "tls", "first_byte"}


async def test_the_name_of_the_url_is_asked_for_and_checked_not_the_address(sender, authority):
    asked = []
    tls = server_tls(authority, HOST)
    tls.sni_callback = lambda _connection, name, _context: asked.append(name)
    result, _ = await post(sender, tls, HOST + ".")
    assert result.outcome is Outcome.DELIVERED
    assert asked == [HOST]


async def test_a_certificate_for_an_address_is_believed_for_that_address(sender, authority):
    assert (await post(sender, server_tls(authority, "127.0.0.1"), "127.0.0.1"))[0].outcome is Outcome.DELIVERED


def expired(authority):
    now = datetime.now(UTC)
    return server_tls(authority, HOST, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))


def of_another_authority(_):
    return server_tls(trustme.CA(), HOST)


def of_another_name(authority):
    return server_tls(authority, "other.test")


def of_the_address_only(authority):
    return server_tls(authority, "127.0.0.1")


def too_old(authority):
    tls = server_tls(authority, HOST)
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.maximum_version = ssl.TLSVersion.TLSv1_1
    return tls


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TLS 1.1, on purpose
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (expired, "expired"),
        (of_another_authority, "self-signed|local issuer"),
        (of_another_name, "ostname mismatch"),
        (of_the_address_only, "ostname mismatch"),
        (too_old, "version|broke off"),
    ],
)
async def test_what_cannot_be_believed_is_a_tls_failure_and_nothing_is_sent(sender, authority, make, word):
    result, raw = await post(sender, make(authority))
    assert result.outcome is Outcome.TLS
    assert any(part in result.detail for part in word.split("|")), result.detail
    assert result.peer == f"127.0.0.1:{raw.port}"
    assert raw.requests == []


def speak_plainly(writer):
    writer.write(answer("400 Bad"))
    writer.close()


def hang_up(writer):
    writer.transport.abort()


@pytest.mark.parametrize("ending", [speak_plainly, hang_up])
async def test_plain_http_on_a_tls_url_and_a_handshake_that_breaks_off_are_tls_failures(sender, ending):
    async def talk(reader, writer):
        await reader.read(10)
        ending(writer)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await sender.post(f"https://{HOST}:{port}/", headers={}, body=b"{}", trust=Trust.API)
    assert result.outcome is Outcome.TLS
    server.close()


async def test_a_handshake_that_hangs_times_out_as_such(authority):
    sender = Sender(LOOPBACK, timeout_s=0.3, lookup=lookup)
    async with raw_server(says(b""), is_silent=True) as raw:
        result = await sender.post(f"https://{HOST}:{raw.port}/", headers={}, body=b"{}", trust=Trust.API)
    assert (result.outcome, result.detail) == (Outcome.TIMEOUT, "the TLS handshake was not finished within 0.3 s")
    await sender.close()


async def test_a_receiver_that_wants_our_certificate_gets_nothing(sender, authority):
    """Its refusal comes after the handshake (TLS 1.3), and may reach us as an alert or as a reset."""
    tls = server_tls(authority, HOST)
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    result, raw = await post(sender, tls)
    assert result.outcome in {Outcome.TLS, Outcome.PROTOCOL}
    assert raw.requests == []


def test_the_certificate_check_cannot_be_left_out():
    tls = client_tls()
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert tls.minimum_version is ssl.TLSVersion.TLSv1_2
