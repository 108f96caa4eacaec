"""Sends a message by e-mail, ntfy, or a webhook in the form of Slack or Teams; the address is judged by the guard."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Final, Protocol, assert_never
from urllib.parse import urlsplit

from bridge.delivery.address_guard import BlockedAddress, allowed_addresses
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.alert import SMTP_PORTS, AlertChannel, ChannelKind
from bridge.domain.delivery import Outcome
from bridge.runtime.aiohttp_internals import default_tls

TIMEOUT_S: Final = 20.0
_SLACK: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


@dataclass(frozen=True, slots=True)
class Message:
    """A line for the subject, and the text."""

    title: str
    text: str


class SendMessage(Protocol):
    """Sends a message by a channel. Returns None, or a sentence without secrets that says why it could not."""

    async def __call__(self, channel: AlertChannel, message: Message) -> str | None:
        """Send it once."""
        ...


class ChannelSender:
    """Sends with the deliverer's HTTP sender, and e-mail on connections of its own.

    `policy` is that of endpoints in the configuration file: a channel may have a private address.
    """

    def __init__(self, sender: Sender, policy: AddressPolicy, *, tls: ssl.SSLContext | None = None) -> None:
        self.policy = policy
        self._sender = sender
        self._tls = tls

    async def __call__(self, channel: AlertChannel, message: Message) -> str | None:
        """Send it once."""
        match channel.kind:
            case ChannelKind.EMAIL:
                return await self._mail(channel, message)
            case ChannelKind.NTFY:
                headers = {
                    "content-type": "text/plain; charset=utf-8",
                    "title": _ascii(message.title),
                    "tags": "warning",
                }
                if channel.token is not None:
                    headers["authorization"] = f"Bearer {channel.token.reveal()}"
                return await self._post(channel, message.text.encode(), headers)
            case ChannelKind.SLACK:
                text = f"*{message.title.translate(_SLACK)}*\n{message.text.translate(_SLACK)}"
                return await self._post_json(channel, {"text": text})
            case ChannelKind.TEAMS:
                return await self._post_json(channel, _card(message))
            case _:
                assert_never(channel.kind)

    async def _post_json(self, channel: AlertChannel, body: Mapping[str, Any]) -> str | None:
        return await self._post(channel, json.dumps(body).encode(), {"content-type": "application/json"})

    async def _post(self, channel: AlertChannel, body: bytes, headers: Mapping[str, str]) -> str | None:
        answer = await self._sender.post(channel.url.reveal(), headers=headers, body=body, trust=Trust.CONFIG)
        if answer.outcome is Outcome.DELIVERED:
            return None
        return answer.detail or f"{answer.outcome.value}"

    async def _mail(self, channel: AlertChannel, message: Message) -> str | None:
        import aiosmtplib  # few daemons send mail: a hundredth of the time of a start

        parts = urlsplit(channel.url.reveal())
        host, port = parts.hostname or "", parts.port or SMTP_PORTS[parts.scheme]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection = await self._dial(host, port, is_encrypted=parts.scheme != "smtp")
                await aiosmtplib.send(
                    _letter(channel, message),
                    sock=connection,  # closed by the client
                    hostname=host,
                    local_hostname=socket.gethostname(),
                    username=channel.username,
                    password=None if channel.password is None else channel.password.reveal(),
                    use_tls=parts.scheme == "smtps",
                    start_tls=parts.scheme == "smtp+starttls",
                    tls_context=(self._tls or default_tls()) if parts.scheme != "smtp" else None,
                    timeout=TIMEOUT_S,
                )
        except TimeoutError:
            return f"{host} does not answer within {TIMEOUT_S:g} s"
        except BlockedAddress as error:
            return str(error.verdict)
        except (aiosmtplib.SMTPException, OSError) as error:
            return f"{host} does not take the mail: {' '.join(str(error).split())[:300] or type(error).__name__}"
        return None

    async def _dial(self, host: str, port: int, *, is_encrypted: bool) -> socket.socket:
        """A connection to the first allowed address that takes one. Raises BlockedAddress or OSError."""
        addresses = await allowed_addresses(host, port, self.policy, is_encrypted=is_encrypted)
        last: OSError = OSError("it has no address")
        for address in addresses:
            connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
            except OSError as error:
                connection.close()
                last = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise last


def _letter(channel: AlertChannel, message: Message) -> EmailMessage:
    letter = EmailMessage()
    sender = channel.sender or ""
    letter["From"], letter["To"], letter["Subject"] = sender, ", ".join(channel.to), message.title
    letter["Date"] = formatdate(localtime=False)
    letter["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(message.text)
    return letter


def _card(message: Message) -> dict[str, Any]:
    """A message with an adaptive card, as the workflows of Teams take it."""
    lines = [{"type": "TextBlock", "text": line, "wrap": True} for line in message.text.splitlines() if line]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "TextBlock", "text": message.title, "weight": "Bolder", "wrap": True}, *lines],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
