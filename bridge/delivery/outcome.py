"""Turns the status or the error of one POST into an `Outcome`; nothing else does.

The sentences are for the operator: short, without secrets, without query strings.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from yarl import URL

from bridge.delivery.address_guard import BlockedAddress
from bridge.domain.delivery import Outcome
from bridge.runtime.aiohttp_internals import TLS_ALERT, Exchange, causes_of, tls_error_of

_LOCATION_CHARACTERS_MAX = 300
_SAID_CHARACTERS_MAX = 160


@dataclass(frozen=True, slots=True)
class Judged:
    """An outcome and the sentence that explains it; None if there is nothing to explain."""

    outcome: Outcome
    detail: str | None = None


def judge_status(status: int, location: str | None = None) -> Judged:
    """Judge a complete head with `status`; `location` is that header of a redirect."""
    if 200 <= status <= 299:
        return Judged(Outcome.DELIVERED)
    if 300 <= status <= 399:
        return Judged(Outcome.REDIRECT, f"{status} redirects to {shown_location(location)}; redirects are not followed")
    if status == 410:
        return Judged(Outcome.GONE, "410 Gone: the receiver wants no more deliveries")
    if status == 429:
        return Judged(Outcome.THROTTLED, "429: the receiver asks for fewer deliveries")
    if 400 <= status <= 499:
        return Judged(Outcome.CLIENT_ERROR, f"the receiver answered {status}")
    if 500 <= status <= 599:
        return Judged(Outcome.SERVER_ERROR, f"the receiver answered {status}")
    return Judged(Outcome.PROTOCOL, f"the receiver answered {status}, which means nothing in HTTP here")


def judge_broken_head(status: int | None, failed: Judged) -> Judged:
    """Judge a head that `failed` after a status line with `status`, which is None if there was no such line.

    With a 2xx the receiver has accepted the event; only the rest of the response is lost.
    """
    if status is None or not 200 <= status <= 299:
        return failed
    return Judged(Outcome.DELIVERED, f"the receiver answered {status}; behind its status line: {failed.detail}")


def judge_timeout(exchange: Exchange, limit_s: float) -> Judged:
    """Judge a timeout after `limit_s` seconds by the phase in which it happened."""
    within = f"within {limit_s:g} s"
    if exchange.has("sent"):
        return Judged(Outcome.TIMEOUT, f"no complete answer {within}")
    if exchange.has("connected") or exchange.is_reused:
        return Judged(Outcome.TIMEOUT, f"the request could not be sent {within}")
    if exchange.is_in_handshake:
        return Judged(Outcome.TIMEOUT, f"the TLS handshake was not finished {within}")
    if exchange.has("dns_asked") and not exchange.has("dns_answered"):
        return Judged(Outcome.DNS, f"no answer to the name lookup {within}")
    return Judged(Outcome.TIMEOUT, f"no connection {within}")


def judge_error(error: Exception, exchange: Exchange) -> Judged:
    """Judge an error before a complete head."""
    causes = list(causes_of(error))
    if (refused := tls_error_of(error)) is not None:
        return Judged(Outcome.TLS, f"TLS failed: {_tls_reason(refused)}")
    for cause in causes:
        if isinstance(cause, BlockedAddress):
            return Judged(Outcome.BLOCKED_ADDRESS, str(cause.verdict))
        if isinstance(cause, socket.gaierror):
            return Judged(Outcome.DNS, f"the name cannot be looked up: {cause.strerror}")
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Judged(Outcome.DNS, f"the name cannot be looked up: {_reason(error)}")
        case aiohttp.ClientConnectorError() if exchange.has("tls_begun"):
            return Judged(Outcome.TLS, f"the TLS handshake broke off: {_reason(error)}")
        case aiohttp.ClientConnectorError():
            return Judged(Outcome.CONNECT, f"no connection: {_reason(error)}")
        case aiohttp.ServerDisconnectedError() | OSError():
            return Judged(Outcome.PROTOCOL, "the connection was closed before a complete answer")
        case aiohttp.ClientResponseError():
            return _judge_head(causes)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Judged(Outcome.PROTOCOL, "this URL cannot be dialled")
        case aiohttp.ClientError():
            return Judged(Outcome.PROTOCOL, _clean(str(error) or type(error).__name__))
    return Judged(Outcome.PROTOCOL, "the request cannot be sent with this URL and these headers")


def is_stale_connection(error: Exception, exchange: Exchange) -> bool:
    """Whether a kept-alive connection turned out to be closed, before any byte of a response."""
    is_closed = isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
    return is_closed and exchange.is_reused and not exchange.has("answered")


def shown_location(location: str | None) -> str:
    """The target of a redirect in printable ASCII, without credentials, query and fragment."""
    if not location:
        return "nowhere"
    try:
        url = URL(location).with_query(None).with_fragment(None)
        shown = str(url.with_user(None) if url.raw_host else url)
    except ValueError:
        return "something that is not a URL"
    return _clean(shown, _LOCATION_CHARACTERS_MAX)


def _judge_head(causes: list[BaseException]) -> Judged:
    said = next((str(cause.message) for cause in causes if isinstance(cause, HttpProcessingError)), "")
    if any(isinstance(cause, LineTooLong) for cause in causes) or said.startswith("Too many headers"):
        return Judged(Outcome.OVERSIZE, "the answer's head is too large (over 8 KiB in a line, or over 128 lines)")
    if TLS_ALERT in said:
        return Judged(Outcome.PROTOCOL, "the receiver speaks TLS on this port; its URL begins with https://")
    fault = said.partition("\n")[0].partition(":")[0]  # bytes of the response follow
    return Judged(Outcome.PROTOCOL, f"the answer is not HTTP: {_clean(fault) or 'it cannot be read'}")


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _clean(error.verify_message or "the certificate cannot be verified")
    return _clean((error.reason or "the handshake was refused").replace("_", " ").lower())


def _reason(error: aiohttp.ClientConnectorError) -> str:
    number = error.os_error.errno
    return (
        os.strerror(number)
        if number is not None and number > 0
        else _clean(str(error.os_error) or "the receiver hung up")
    )


def _clean(text: str, characters_max: int = _SAID_CHARACTERS_MAX) -> str:
    printable = "".join(character if " " <= character <= "~" else "?" for character in text)
    return printable if len(printable) <= characters_max else printable[: characters_max - 1] + "…"
