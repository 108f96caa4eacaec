"""The kind of a failed request, and the sentence that names its cause."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from bridge.domain.errors import BadPayload
from bridge.domain.failure import FailureKind
from bridge.domain.observation import PollFailed
from bridge.domain.run import Json
from bridge.providers.retry_after import quota_is_used_up

if TYPE_CHECKING:
    import ssl

QUOTE_CHARS_MAX: Final = 100
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)
MESSAGE_CHARS_MAX: Final = 400
_NO_ROUTE: Final = re.compile(  # by turns: Kong, Symfony, APISIX · Fastify, Laravel · Express and Nest · Werkzeug …
    r"no route (matched|found)|route not found|\broute \S+ (not found|could not be found)|cannot (get|post) /"
    r"|requested url was not found on th|the server could not find the requested resource|no static resource"
    r"|missing authentication token|request is not defined by this api|does not match any rules|no context-path matches"
    r"|unable to identify proxy|could not route to|invalid path specified|could not find resource for"
    r"|(application|deployment) (not found|could not be found)|page (not found|could not be found)",
    re.IGNORECASE,  # … Kubernetes, Spring · AWS, Google, Oathkeeper, Gravitee, Apigee, Cloudflare, PostgREST · Railway, Vercel
)
_UNTRUSTED: Final = "if the server's certificate is your own, name its authority with ca_file"
_NAMED_OTHERWISE: Final = "base_url names another host than the certificate, or another server answers there"
_TLS_REMEDIES: Final = {  # by OpenSSL's code of what a certificate fails in
    9: "the clock of this machine may be wrong",
    10: "the server needs a new one, unless the clock of this machine is wrong",
    62: _NAMED_OTHERWISE,  # a host name
    64: _NAMED_OTHERWISE,  # an IP address
}
_BEHIND_IT: Final = "a login page, a proxy or a wrong base_url may be the cause"


def failure_kind(status: int, headers: Mapping[str, str]) -> FailureKind:
    """The kind of failure for a status outside 2xx; a 403 about a used-up quota is throttling."""
    match status:
        case 429:
            return FailureKind.THROTTLED
        case 403 if quota_is_used_up(headers):
            return FailureKind.THROTTLED
        case 401 | 403:
            return FailureKind.UNAUTHORIZED
        case 404 | 410:
            return FailureKind.NOT_FOUND
        case 301 | 302 | 303 | 307 | 308 | 407:
            return FailureKind.GATEWAY
        case _ if status >= 500:
            return FailureKind.SERVER_ERROR
        case _:
            return FailureKind.REJECTED


def error_text(body: Json) -> tuple[str | None, str | None]:
    """Message and code in an error body, in any of the spellings that providers use; None if absent."""
    if isinstance(body, str):
        return printable(body) or None, None
    if isinstance(body, list) and body:
        return error_text(body[0])
    if not isinstance(body, dict):
        return None, None
    code = body.get("code")
    own_code = code[:100] if isinstance(code, str) else None
    for key in ("message", "detail", "error", "msg", "errors"):
        message, inner_code = error_text(body.get(key))
        if message:
            return message, own_code or inner_code
    return None, own_code


def what_came_instead(head: str, content_type: str) -> tuple[FailureKind, str] | None:
    """The kind of a body that is not JSON, by its first characters; None if it may be broken JSON."""
    text = head.lstrip("\ufeff \t\r\n")
    if not text:
        return FailureKind.BAD_PAYLOAD, "an empty body instead of JSON"
    if text.startswith("<?xml") and "<html" not in text.lower():
        return FailureKind.GATEWAY, f"an XML document instead of JSON; {_BEHIND_IT}"
    if text.startswith("<") or "html" in content_type.lower():
        title = _TITLE.search(text)
        named = f" titled {quoted(title[1])}" if title else ""
        return FailureKind.GATEWAY, f"a web page{named} instead of JSON; {_BEHIND_IT}"
    if text[0] not in '{["':
        return FailureKind.BAD_PAYLOAD, f"text instead of JSON, which begins {quoted(text)}"
    return None


def said_instead(status: int, body: Json, error: BadPayload, redacted: Callable[[str], str]) -> str:
    """The phrase for an answer that shows no run: the provider's own error in it, otherwise why it cannot be read."""
    text, _ = error_text(body)
    if not text:
        return redacted(str(error))
    return f"HTTP {status} with {'a text' if isinstance(body, str) else 'an error'} instead of a run: {redacted(text)}"


def is_of_router(body: Json) -> bool:
    """Whether a 404's document is about the address, as gateways and frameworks say it, and not about a run."""
    if not isinstance(body, dict):
        return False
    if body in ({"detail": "Not Found"}, {"statusCode": 404, "message": "Resource not found"}):  # FastAPI, Azure
        return True
    said = body.get("message")
    if body.keys() >= {"status", "error", "path"} and said in (None, "", "No message available"):  # Spring Boot
        return True
    return any(map(_NO_ROUTE.search, _texts_in(body)))


def _texts_in(body: Json) -> Iterator[str]:
    """All texts in a document."""
    left = [body]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as items:
                left += items
            case dict() as members:
                left += members.values()


def judged_404(failed: PollFailed, body: Json, *, error_key: str | None = None, hint: str = "") -> PollFailed:
    """The failure, which is `GATEWAY` instead of `NOT_FOUND` where the answer cannot be the provider's own.

    `error_key`: a member that the provider's error documents have. `hint` ends the message.
    """
    is_document = isinstance(body, dict) and body and (error_key is None or error_key in body)
    if failed.kind is not FailureKind.NOT_FOUND or (is_document and not is_of_router(body)):
        return failed
    doubt = "this is not how the provider says it"
    if _BEHIND_IT not in failed.message:
        doubt += ", a gateway or a wrong base_url may be the cause"
    message = f"{failed.message}; {doubt}"
    return replace(failed, kind=FailureKind.GATEWAY, message=message[: MESSAGE_CHARS_MAX - len(hint)] + hint)


def redirect_target(location: str) -> str:
    """Where a redirect leads, as a phrase without the query, which may hold a secret; empty if it names nothing."""
    try:
        parts = urlsplit(location.strip())
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    origin = (f"{parts.scheme}:" if parts.scheme else "") + (f"//{host}" if host else "")
    target = printable(origin + parts.path)[:QUOTE_CHARS_MAX]
    return f" to {target}" if target else ""


def printable(text: str) -> str:
    """The text on one line, without control characters: it may be shown on a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def quoted(text: str) -> str:
    """The beginning of a foreign text in quotes."""
    return f'"{printable(text)[:QUOTE_CHARS_MAX]}"'


def transport_failure(
    error: Exception, without_keys: Callable[[str], str], *, is_in_handshake: bool
) -> tuple[FailureKind, str]:
    """The kind and cause of a request that got no complete response; what is quoted is first passed to `without_keys`."""
    import aiohttp  # this takes longer to import than `providers lint` takes for the rest

    from bridge.runtime.aiohttp_internals import TLS_ALERT, tls_error_of

    if (refused := tls_error_of(error)) is not None:
        return FailureKind.TLS, _tls_refusal(refused, is_in_handshake=is_in_handshake)
    match error:
        case aiohttp.ClientConnectorDNSError():
            return FailureKind.DNS, f"the name {error.host} cannot be looked up"
        case aiohttp.ClientConnectorError() if is_in_handshake:
            return FailureKind.TLS, "no TLS connection: the server broke off the handshake"
        case aiohttp.ClientHttpProxyError():
            return FailureKind.GATEWAY, f"the proxy opens no tunnel: HTTP {error.status}{proxy_remedy(error.status)}"
        case aiohttp.ClientProxyConnectionError():
            why = os.strerror(error.os_error.errno or 0) if (error.os_error.errno or 0) > 0 else "it cannot be reached"
            return FailureKind.CONNECT, f"cannot connect to the proxy {error.host}:{error.port} ({why})"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            why = os.strerror(number) if number and number > 0 else "no address of it can be reached"
            return FailureKind.CONNECT, f"cannot connect to {error.host}:{error.port} ({why})"
        case aiohttp.ServerDisconnectedError():
            return FailureKind.TRANSPORT, "the server closed the connection without a response"
        case aiohttp.ClientPayloadError():
            return FailureKind.TRANSPORT, "the response breaks off"
        case aiohttp.ClientResponseError() if TLS_ALERT in error.message:
            return FailureKind.TRANSPORT, "the server speaks TLS on this port: base_url begins with https:// there"
        case aiohttp.ClientResponseError():
            return (
                FailureKind.TRANSPORT,
                f"the server sent no valid HTTP ({quoted(without_keys(error.message).rstrip(' ^'))})",
            )
        case ConnectionError():
            return FailureKind.TRANSPORT, "the server broke the connection"
        case aiohttp.ClientError() | OSError():
            said = without_keys(str(error)) or type(error).__name__
            return FailureKind.TRANSPORT, f"the connection broke ({quoted(said)})"
        case _:
            said = "the request cannot be made: base_url, api_key or an option holds a character that HTTP forbids"
            return FailureKind.REJECTED, said


def _tls_refusal(error: ssl.SSLError, *, is_in_handshake: bool) -> str:
    if words := getattr(error, "verify_message", None):
        remedy = _TLS_REMEDIES.get(getattr(error, "verify_code", 0), _UNTRUSTED)
        return f"no TLS connection: {words.rstrip('.')[:QUOTE_CHARS_MAX]}; {remedy}"
    if is_in_handshake and error.reason == "WRONG_VERSION_NUMBER":
        return "no TLS connection: the server does not speak TLS on this port"
    reason = (error.reason or str(error)).replace("_", " ").lower()[:QUOTE_CHARS_MAX]
    return f"{'no TLS connection' if is_in_handshake else 'the TLS connection broke'}: {reason}"


def proxy_remedy(status: int) -> str:
    """The remedy for a proxy's 407; empty for any other status."""
    return "; give its user and password in the URL of `proxy`" if status == 407 else ""
