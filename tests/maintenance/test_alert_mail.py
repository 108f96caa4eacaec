"""Alerts by e-mail, to a real mail server: plain, TLS and STARTTLS, with a password."""

from __future__ import annotations

import email.policy
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from functools import cache
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope

from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.alert import AlertChannel
from bridge.domain.secret import Secret
from bridge.maintenance.alert_channels import ChannelSender, Message
from tests.support.ports import free_port
from tests.support.posting import LOOPBACK

MESSAGE = Message("runbridge: The connection dify-prod brings nothing readable", "Ünreadable.\nDo this.\n")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Mailbox(Controller):
    """A mail server that keeps what it takes."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None) -> None:
        self.letters: list[tuple[Envelope, EmailMessage]] = []
        self.logins: list[tuple[bytes, bytes]] = []
        super().__init__(
            self, hostname="127.0.0.1", port=free_port(), ssl_context=tls, tls_context=starttls,
            authenticator=self.login, auth_required=bool(tls or starttls), auth_require_tls=bool(starttls),
        )  # fmt: skip

    def login(self, _server: SMTP, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    async def handle_DATA(self, _server: SMTP, _session: Any, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        parsed = BytesParser(EmailMessage, policy=email.policy.default).parsebytes(envelope.content)
        self.letters.append((envelope, parsed))
        return "250 OK"


@contextmanager
def mailbox(**options: Any) -> Iterator[Mailbox]:
    server = Mailbox(**options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    return tls


@cache
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    return tls


async def send(authority: trustme.CA, url: str, *, policy: AddressPolicy | None = None, **more: Any) -> str | None:
    settings = {"kind": "email", "url": Secret(url), "to": ["ops@example.org", "b@example.org"], **more}
    channel = AlertChannel.model_validate({"from": "runbridge@example.org", **settings})
    sender = Sender(LOOPBACK, timeout_s=60)
    try:
        return await ChannelSender(sender, policy or AddressPolicy(Trust.CONFIG), tls=trusting(authority))(
            channel, MESSAGE
        )
    finally:
        await sender.close()


async def test_a_letter_arrives_with_its_title_as_subject(authority: trustme.CA) -> None:
    with mailbox() as server:
        assert await send(authority, f"smtp://localhost:{server.port}") is None
    ((envelope, letter),) = server.letters
    assert (envelope.mail_from, envelope.rcpt_tos) == ("runbridge@example.org", ["ops@example.org", "b@example.org"])
    assert (letter["Subject"], letter["Auto-Submitted"]) == (MESSAGE.title, "auto-generated")
    assert letter.get_content().splitlines() == MESSAGE.text.splitlines()
    assert letter["Message-ID"].endswith("@example.org>")


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd's, of TLS from the start
@pytest.mark.parametrize(("scheme", "option"), [("smtps", "tls"), ("smtp+starttls", "starttls")])
async def test_a_password_goes_over_tls_and_a_wrong_one_is_reported(
    authority: trustme.CA, scheme: str, option: str
) -> None:
    with mailbox(**{option: server_tls(authority)}) as server:
        url = f"{scheme}://localhost:{server.port}"
        assert await send(authority, url, username="me", password=Secret("right")) is None
        assert server.logins[-1] == (b"me", b"right")
        refused = await send(authority, url, username="me", password=Secret("wrong-canary"))
    assert refused is not None
    assert refused.startswith("localhost does not take the mail: ")
    assert "canary" not in refused
    assert len(server.letters) == 1


async def test_a_server_without_the_tls_that_is_asked_for_gets_nothing(authority: trustme.CA) -> None:
    with mailbox() as server:
        refused = await send(authority, f"smtp+starttls://localhost:{server.port}")
    assert refused is not None
    assert server.letters == []


async def test_a_server_that_is_not_there_is_reported(authority: trustme.CA) -> None:
    refused = await send(authority, f"smtp://127.0.0.1:{free_port()}")
    assert refused is not None
    assert "127.0.0.1 does not take the mail" in refused


async def test_the_guard_judges_the_mail_servers_address(authority: trustme.CA) -> None:
    refused = await send(authority, "smtp://169.254.169.254")
    assert refused is not None
    assert "cloud metadata" in refused
    refused = await send(authority, "smtp://93.184.216.34")
    assert refused is not None
    assert "public addresses need" in refused
