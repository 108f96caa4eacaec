"""Alerts: the messages sent to people, and the channels that carry them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from bridge.domain import fields
from bridge.domain.errors import InvalidInput
from bridge.domain.secret import Secret
from bridge.domain.webhook_url import parse_target


class AlertEvent(StrEnum):
    """Kinds of alerts; each is sent once per edge."""

    CONNECTION_FAILING = "connection.failing"
    CONNECTION_RECOVERED = "connection.recovered"
    ENDPOINT_FAILING = "endpoint.failing"
    ENDPOINT_DISABLED = "endpoint.disabled"
    DELIVERY_EXHAUSTED = "delivery.exhausted"
    DISK_FULL = "disk.full"


class ChannelKind(StrEnum):
    """How a channel is spoken to."""

    EMAIL = "email"
    NTFY = "ntfy"
    SLACK = "slack"
    TEAMS = "teams"


@dataclass(frozen=True, slots=True)
class Alert:
    """One edge: a sentence that says what happened, and one that says what to do."""

    event: AlertEvent
    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ChannelTest:
    """A test message by a channel; `failure` says why it was not taken, None if it was."""

    name: str
    kind: ChannelKind
    failure: str | None

    @property
    def ok(self) -> bool:
        """Whether it was taken."""
        return self.failure is None

    @property
    def detail(self) -> str:
        """One sentence."""
        return self.failure or "the message was taken"


DEFAULT_EVENTS: Final = (
    AlertEvent.CONNECTION_FAILING,
    AlertEvent.ENDPOINT_DISABLED,
    AlertEvent.DELIVERY_EXHAUSTED,
    AlertEvent.DISK_FULL,
)
SMTP_PORTS: Final = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_ADDRESS: Final = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+")
_SMTP: Final = '"smtps://mail.example.org", "smtp+starttls://mail.example.org:587" or "smtp://localhost" (without TLS)'


def _read_events(value: object) -> object:
    names = value if isinstance(value, list | tuple) else None
    if not names:
        raise ValueError(f"expected a list of {', '.join(AlertEvent)}")
    return tuple(AlertEvent(fields.one_of(name, AlertEvent)) for name in names)


def _read_kind(value: object) -> ChannelKind:
    return ChannelKind(fields.one_of(value.lower() if isinstance(value, str) else value, ChannelKind))


def _check_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not an e-mail address; expected one such as ops@example.org, without a name")
    return text


def _check_token(secret: Secret) -> Secret:
    if not re.fullmatch(r"[!-~]+", secret.reveal()):
        raise ValueError("holds blanks or characters other than printable ASCII; copy it again")
    return secret


Address = Annotated[str, AfterValidator(_check_address)]


class AlertChannel(BaseModel):
    """One channel. `url` is a server of e-mail (see SMTP_PORTS), a topic of ntfy, or a webhook, which is a secret.

    `to`, `sender`, `username` and `password` belong to e-mail, `token` to ntfy.
    """

    model_config = fields.STRICT

    kind: Annotated[ChannelKind, BeforeValidator(_read_kind)]
    url: Secret
    to: Annotated[tuple[Address, ...], fields.Lax, Field(validate_default=True)] = ()
    sender: Annotated[Address | None, Field(alias="from", validate_default=True)] = None
    username: str | None = None
    password: Secret | None = None
    token: Annotated[Secret, AfterValidator(_check_token)] | None = None
    events: Annotated[tuple[AlertEvent, ...], BeforeValidator(_read_events)] = DEFAULT_EVENTS

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: Secret, info: ValidationInfo) -> Secret:
        kind = info.data.get("kind")
        if kind is ChannelKind.EMAIL:
            _check_smtp(value.reveal())
        elif kind is not None:
            try:
                parse_target(value.reveal())
            except InvalidInput as invalid:
                raise ValueError(invalid.problems[0].message) from None
        return value

    @field_validator("to", "sender")
    @classmethod
    def _e_mail_needs_it(cls, value: object, info: ValidationInfo) -> object:
        if not value and info.data.get("kind") is ChannelKind.EMAIL:
            raise ValueError("missing; e-mail needs it")
        return value

    @field_validator("to", "sender", "username", "password", "token")
    @classmethod
    def _belongs(cls, value: object, info: ValidationInfo) -> object:
        kind = info.data.get("kind")
        owner = ChannelKind.NTFY if info.field_name == "token" else ChannelKind.EMAIL
        if value and kind is not None and kind is not owner:
            raise ValueError(f"belongs to {owner.value}; leave it out here")
        return value

    @field_validator("password")
    @classmethod
    def _of_a_user(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        url = info.data.get("url")
        if value and info.data.get("username", "") is None:
            raise ValueError("needs a username beside it")
        if value and url is not None and urlsplit(url.reveal()).scheme == "smtp":
            raise ValueError("would go over the network in plain text; use smtps:// or smtp+starttls://")
        return value


def _check_smtp(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"its port does not exist; expected {_SMTP}") from None
    extras = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in SMTP_PORTS or not parts.hostname or extras or port == 0:
        raise ValueError(f"expected a mail server: {_SMTP}; the user goes into username and password")
