"""One request to a provider, bounded in time and size.

Every fault is classified here, once, and raised as a `ProviderFailure` that carries a `PollFailed`. Requests follow no
redirect, keep no cookie, ignore proxy variables, and no message contains a secret.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from bridge import __version__
from bridge.domain.errors import BadPayload, BridgeError
from bridge.domain.failure import FailureKind
from bridge.domain.frozen import frozen
from bridge.domain.observation import PollFailed
from bridge.domain.run import Json
from bridge.domain.secret import Secret
from bridge.providers.body import BODY_BYTES_MAX, Body, parse_bytes, read_bytes, read_pieces
from bridge.providers.failures import (
    MESSAGE_CHARS_MAX,
    error_text,
    failure_kind,
    proxy_remedy,
    redirect_target,
    transport_failure,
    what_came_instead,
)
from bridge.providers.partial_json import RunFields
from bridge.providers.retry_after import requested_pause_s
from bridge.runtime.aiohttp_internals import (
    ClientProtocol,
    Connector,
    Exchange,
    client_tls,
    current,
    default_tls,
    disable_retry,
)
from bridge.runtime.deadlines import Deadlines

_ERROR_BYTES_MAX: Final = 64 * 1024
_HEADER_BYTES_MAX, _HEADERS_MAX = 128 * 1024, 2000  # aiohttp allows 8 KiB, and the whole response would be lost
_OVERSIZE_PAUSE_MIN_S: Final = 10.0
_OVERSIZE_BYTES_PER_S: Final = 1024 * 1024  # on average, for the polls of one run
ERROR_READ_S: Final = 2.0  # the status line has the outcome; the body only explains it
_PATH_CHARS_MAX: Final = 150
_SAID_CHARS_MAX: Final = 200
_AMBIGUOUS: Final = frozenset(
    {FailureKind.TIMEOUT, FailureKind.TRANSPORT, FailureKind.SERVER_ERROR, FailureKind.BAD_PAYLOAD, FailureKind.GATEWAY}
)
_NOT_DONE: Final = frozenset(range(300, 500)) - {303}  # which says that it was done, and where to look
_NOT_PARSED: Final[tuple[Json, frozenset[str]]] = (None, frozenset())
_FAULTS: Final = (BadPayload, aiohttp.ClientError, OSError, ValueError)  # TimeoutError is an OSError
_HIDDEN_MAX: Final = 100  # exchanged tokens that are kept out of messages
_SECRET_CHARS_MIN: Final = 6  # redacting a shorter one would mutilate ordinary words


class ProviderFailure(BridgeError):
    """The request failed or its response cannot be used; `failed` says why.

    `body` is the JSON of an error response, `code` the provider's own error code in it, `headers` are those of the
    response, if there was one.
    """

    def __init__(
        self,
        failed: PollFailed,
        code: str | None = None,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.failed = failed
        self.code = code
        self.body = body
        self.headers: Mapping[str, str] = {} if headers is None else headers
        super().__init__(failed.message)

    @property
    def is_ambiguous(self) -> bool:
        """Whether the provider may have done what it was asked for: the request was sent, its outcome is not known."""
        return self.failed.kind in _AMBIGUOUS and self.failed.status not in _NOT_DONE


@frozen
class ProviderResponse:
    """A 2xx response with its JSON, or the 304 to a request with `etag`. Header names match in any case.

    `data` is the body without its content encoding. If it equals `last_body` of the request, `is_same_body` is true
    and `body` is None, because it was not parsed again. `poll_after_s` is the pause that the provider asked for.
    `damaged` names the members of `body` that could not be read whole.
    """

    status: int
    headers: Mapping[str, str]
    body: Json
    data: bytes = b""
    poll_after_s: float | None = None
    is_same_body: bool = False
    damaged: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Route:
    """How a provider is reached: by an HTTP proxy, and with the certificates of `ca_file` besides the system's."""

    ca_file: str | None = None
    proxy: str | None = field(default=None, repr=False)

    def tls(self) -> ssl.SSLContext | None:
        """The context that trusts `ca_file`; None without one."""
        return None if self.ca_file is None else client_tls(self.ca_file)


DIRECT: Final = Route()
_SENT: Final = {"User-Agent": f"runbridge/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}


class RequestSlots:
    """So many requests at once, beyond which each waits for a free slot. Without a wait it costs next to nothing."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._freed = asyncio.Event()

    def take(self) -> bool:
        """Take a slot; False if none is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def wait_and_take(self) -> None:
        """Take a slot as soon as one is free."""
        while not self.take():
            self._freed.clear()
            await self._freed.wait()

    def give_back(self) -> None:
        """Free a slot."""
        self._free += 1
        self._freed.set()


class ProviderSessions:
    """One client session per credential, so that no connection is used by two; create it inside the running loop.

    They have no timeout and no connection limit: each request has its deadline, and the poller limits concurrency.
    `requests_max` bounds the requests of all of them together, because each is an open file; more wait for their turn.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, requests_max: int = 10_000) -> None:
        self.slots = RequestSlots(max(1, requests_max))
        self.deadlines = Deadlines()
        self.tls = tls
        self._by_credential: dict[tuple[frozenset[tuple[str, str]], Secret | None, Route], aiohttp.ClientSession] = {}

    def of(self, credential: Mapping[str, str], key: Secret | None, route: Route) -> aiohttp.ClientSession:
        """The session for requests with these headers and this key, which need not be in the headers."""
        owner = (frozenset(credential.items()), key, route)
        if owner not in self._by_credential:
            self._by_credential[owner] = self._new_session(route)
        return self._by_credential[owner]

    def _new_session(self, route: Route) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=Connector(ClientProtocol, limit=0, ssl=route.tls() or self.tls or default_tls()),
            proxy=route.proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            headers=_SENT,  # a proxy sees them, too
            auto_decompress=False,
            max_line_size=_HEADER_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            max_headers=_HEADERS_MAX,
            trust_env=False,
        )
        disable_retry(session)
        return session

    async def close(self) -> None:
        """Close every connection."""
        for session in self._by_credential.values():
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ProviderHttp:
    """HTTP requests of one connection. `options` are the connection's settings for its provider."""

    def __init__(
        self,
        sessions: ProviderSessions,
        base_url: str,
        headers: dict[str, str],
        timeout_s: float,
        body_bytes_max: int = BODY_BYTES_MAX,
        *,
        options: Mapping[str, str] | None = None,
        route: Route = DIRECT,
        key: Secret | None = None,
    ) -> None:
        self.options: Mapping[str, str] = options or {}
        self.key = key
        """The key of the connection, for providers that send it elsewhere than in a header."""
        self.body_bytes_max = body_bytes_max
        self.former_paths: set[str] = set()  # that a server of this generation lacks: the provider asks others first
        self.prepared: dict[object, Any] = {}  # what each provider has worked out for its requests
        self._session = sessions.of(headers, key, route)
        self._slots, self._deadlines = sessions.slots, sessions.deadlines
        self.base_url = base_url.rstrip("/")
        self._headers = CIMultiDict(headers)
        self._hidden = {value.rpartition(" ")[2] for value in headers.values()}
        if key is not None:
            self._hidden |= {key.reveal(), key.reveal().partition(":")[2]}
        self.timeout_s = timeout_s

    @cached_property
    def _base(self) -> URL:
        return URL(self.base_url)

    def address_of(self, path: str) -> str:
        """The whole address of a path, or of what is one already."""
        return self.base_url + path if path.startswith("/") else path

    def hide(self, secret: str) -> None:
        """Keep a further secret, such as a token that was exchanged for the key, out of all messages."""
        self._hidden = {secret, *(() if len(self._hidden) > _HIDDEN_MAX else self._hidden)}

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Json = None,
        timeout_s: float | None = None,
        expects_json: bool = True,
        etag: str | None = None,
        last_body: bytes | None = None,
        fields: RunFields | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ProviderResponse:
        """Send one request. Raises ProviderFailure unless the response is a 2xx, or a 304 and `etag` was given.

        `path` begins with a slash and is percent-encoded; or it is a whole address, at a host that the caller has
        checked. `timeout_s` covers the whole exchange, from the name lookup to the last byte. The body is read but not
        parsed without `expects_json`, and if it equals `last_body`. With `fields`, a body that is too large or broken
        in one place is reduced to the members that can be read. `headers` replace those of the connection.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        response: aiohttp.ClientResponse | None = None
        body = Body(self.body_bytes_max, fields)
        if not self._slots.take():
            await self._slots.wait_and_take()
        try:
            try:
                with self._deadlines.within(limit_s):
                    response = await self._send(method, path, query, json_body, etag, headers)
                    if not 200 <= response.status < 300:
                        await self._raise_for_status(method, path, response, etag)
                    if not body.take(response):
                        await body.read(response)
            except _FAULTS:
                if response is None or not body.is_partly_read:
                    raise
            finally:
                self._slots.give_back()
            data = body.data
            is_same = data is not None and data == last_body
            is_parsed = expects_json and response.status != 304 and not is_same
            value, damaged = await body.parse() if is_parsed else _NOT_PARSED
            pause_s = _oversize_pause_s(body, requested_pause_s(response.headers))
            return ProviderResponse(response.status, response.headers, value, data or b"", pause_s, is_same, damaged)
        except _FAULTS as error:
            raise self._fault(error, method, path, response, limit_s, body) from None
        finally:
            if response is not None and not response.closed:  # it closes by itself when its body has ended
                response.release()

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, json_body: Json = None, timeout_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream the chunks of a 2xx response, up to the size limit; leaving the block closes the connection."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        response: aiohttp.ClientResponse | None = None
        if not self._slots.take():
            await self._slots.wait_and_take()
        try:
            with self._deadlines.within(limit_s):
                response = await self._send(method, path, (), json_body, None)
                await self._raise_for_status(method, path, response, None)
                async with aclosing(read_pieces(response, self.body_bytes_max)) as chunks:
                    yield chunks
        except _FAULTS as error:
            raise self._fault(error, method, path, response, limit_s) from None
        finally:
            self._slots.give_back()
            if response is not None:
                response.release()

    def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        json_body: Json,
        etag: str | None,
        own_headers: Mapping[str, str] | None = None,
    ) -> Awaitable[aiohttp.ClientResponse]:
        # encoded=True: yarl must neither decode the percent-encoding of a run id nor resolve its dots
        address = _address(self._base, path) if path.startswith("/") else URL(path, encoded=True)
        if query:
            address = URL(f"{address}{'&' if address.raw_query_string else '?'}{urlencode(query)}", encoded=True)
        headers, data = self._headers, None
        if own_headers or etag is not None or json_body is not None:
            headers = headers.copy()
            headers.update(own_headers or {})
        if etag is not None:
            headers["If-None-Match"] = etag
        if json_body is not None:
            headers.setdefault("Content-Type", "application/json")  # unless a definition names a kind of JSON
            data = json.dumps(json_body, allow_nan=False).encode()
        current.set(Exchange())
        return self._session.request(method, address, headers=headers, data=data, allow_redirects=False)

    async def _raise_for_status(
        self, method: str, path: str, response: aiohttp.ClientResponse, etag: str | None
    ) -> None:
        """Raise ProviderFailure unless the status is 2xx, or 304 and `etag` was given."""
        if 200 <= response.status < 300 or (response.status == 304 and etag):
            return
        kind = failure_kind(response.status, response.headers)
        body, head = await _read_error(response)
        message, code = error_text(body)
        said = f"HTTP {response.status}"
        if response.status == 304:
            said += " (not modified) to a request without an ETag; a cache in between may be the cause"
        elif 300 <= response.status < 400:
            target = redirect_target(self._without_keys(response.headers.get("location", "")))
            is_slash = response.headers.get("location", "").partition("?")[0].endswith(f"{response.url.raw_path}/")
            remedy = "end the address with `/`" if is_slash else "check base_url; a login may stand before the API"
            said += f", a redirect{target}, which is not followed: {remedy}"
        elif message:
            said += f", {self.redacted(message)}"
        elif body is None and (instead := what_came_instead(self._text_of(head), response.content_type)):
            said += f" with {instead[1]}"
        said += proxy_remedy(response.status)
        pause_s = requested_pause_s(response.headers, with_quota=kind is FailureKind.THROTTLED)
        raise self._failure(kind, method, path, said, response.status, pause_s, code, body, response.headers)

    def _fault(
        self,
        error: Exception,
        method: str,
        path: str,
        response: aiohttp.ClientResponse | None,
        limit_s: float,
        body: Body | None = None,
    ) -> ProviderFailure:
        """The failure for a fault before the response or in the middle of it."""
        status = None if response is None else response.status
        exchange = current.get()
        is_in_handshake = exchange is not None and exchange.is_in_handshake
        match error:
            case BadPayload() if response and body and (instead := self._instead(body, response)):
                kind, said = instead[0], f"HTTP {status} with {instead[1]}"
            case BadPayload():
                kind, said = FailureKind.BAD_PAYLOAD, str(error)
            case TimeoutError():
                within = "the TLS handshake was not finished" if is_in_handshake else "no complete answer"
                kind, said = FailureKind.TIMEOUT, f"{within} within {limit_s:g} s"
            case _:
                kind, said = transport_failure(error, self._without_keys, is_in_handshake=is_in_handshake)
        headers = None if response is None else response.headers
        pause_s = _oversize_pause_s(body, None) if body else None
        return self._failure(kind, method, path, said, status, pause_s, headers=headers)

    def _failure(
        self,
        kind: FailureKind,
        method: str,
        path: str,
        said: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
    ) -> ProviderFailure:
        message = self._without_keys(f"{method} {path.partition('?')[0][:_PATH_CHARS_MAX]}: {said}")
        failed = PollFailed(kind, message[:MESSAGE_CHARS_MAX], status, retry_after_s)
        return ProviderFailure(failed, code, body, headers)

    def redacted(self, text: str) -> str:
        """A foreign text without this connection's keys, which some servers repeat when they refuse them."""
        return self._without_keys(text)[:_SAID_CHARS_MAX]

    def _instead(self, body: Body, response: aiohttp.ClientResponse) -> tuple[FailureKind, str] | None:
        is_known = body.is_read or body.head.strip()
        return what_came_instead(self._text_of(body.head), response.content_type) if is_known else None

    def _text_of(self, head: bytes) -> str:
        return self._without_keys(head.decode("utf-8", "replace"))

    def _without_keys(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "****") if len(secret) >= _SECRET_CHARS_MIN else text
        return text


def _oversize_pause_s(body: Body, asked_s: float | None) -> float | None:
    """The pause after a body: longer than `asked_s` where it is so large that it should not be fetched often."""
    if body.size <= body.bytes_max:
        return asked_s
    return max(asked_s or 0.0, _OVERSIZE_PAUSE_MIN_S, body.size / _OVERSIZE_BYTES_PER_S)


@lru_cache(maxsize=1024)  # a run is polled repeatedly; a kilobyte each
def _address(base: URL, path: str) -> URL:
    return base.with_path(base.raw_path.rstrip("/") + path, encoded=True)


async def _read_error(response: aiohttp.ClientResponse) -> tuple[Json, bytes]:
    """The JSON of an error response, None if it has none, and the first bytes of its body."""
    data = b""
    try:
        async with asyncio.timeout(ERROR_READ_S):
            data = await read_bytes(response, _ERROR_BYTES_MAX)
        return parse_bytes(data, response), data
    except (BadPayload, TimeoutError, aiohttp.ClientError, OSError):
        return None, data
