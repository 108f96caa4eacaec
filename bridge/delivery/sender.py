"""The sender: makes one POST to a subscriber through the address guard, bounded in time and size, and judges it.

    session of its trust and scheme ─► POST ─► head: the outcome ─► body: 8 KiB of it kept ─► PostResult

The status line decides: truncated, endless or unreadable headers and bodies do not change the outcome. Follows no
redirect, keeps no cookie, decompresses nothing, ignores proxy variables.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from bridge import __version__
from bridge.delivery.address_guard import Lookup, ThreadLookup, guarded_session
from bridge.delivery.outcome import (
    Judged,
    is_stale_connection,
    judge_broken_head,
    judge_error,
    judge_status,
    judge_timeout,
)
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.clock import Clock, SystemClock
from bridge.domain.custom_headers import check_headers
from bridge.domain.delivery import Outcome, PostResult, parse_retry_after
from bridge.domain.errors import InvalidInput
from bridge.domain.fields import MASK
from bridge.domain.frozen import frozen
from bridge.domain.webhook_url import parse_target, query_secrets
from bridge.runtime.aiohttp_internals import Exchange, current, default_tls
from bridge.runtime.deadlines import Deadlines

TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 5.0  # name lookup, connection and TLS together
BODY_TIMEOUT_S: Final = 5.0
HEAD_BYTES_MAX: Final = 8 * 1024
READ_BYTES_MAX: Final = 64 * 1024
_CHUNK_BYTES: Final = 16 * 1024
_SECRET_CHARS_MIN: Final = 6  # masking a shorter one would mutilate ordinary words
_CONNECT_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)


@frozen
class _Request:
    url: URL
    headers: CIMultiDict[str]
    body: bytes
    trust: Trust
    allow_http: bool
    deadline: float
    secrets: Collection[str]


@frozen
class _Body:
    head: bytes
    is_truncated: bool
    note: str | None


class _Sessions:
    """The client sessions of one set of policies: made on demand, closed after the last POST that uses them.

    One session per trust, scheme and permission to use http, so that no connection that one policy allowed is used
    under another.
    """

    def __init__(self, policies: Mapping[Trust, AddressPolicy], *, lookup: Lookup, tls: ssl.SSLContext) -> None:
        self._policies, self._lookup, self._tls = dict(policies), lookup, tls
        self._made: dict[tuple[Trust, bool, bool, bool], aiohttp.ClientSession] = {}
        self._users = 0
        self._is_retired = False

    def session(self, trust: Trust, *, is_encrypted: bool, allow_http: bool, is_pooled: bool) -> aiohttp.ClientSession:
        """The session to post with; one that is not pooled opens a new connection for each POST."""
        policy = self._policies[trust]
        allow_http = policy.allow_http or allow_http
        key = (trust, is_encrypted, allow_http, is_pooled)
        if key not in self._made:
            policy = replace(policy, allow_http=allow_http)
            self._made[key] = guarded_session(
                policy, is_encrypted=is_encrypted, lookup=self._lookup, tls=self._tls, is_pooled=is_pooled
            )
        return self._made[key]

    def enter(self) -> None:
        """Count a POST that begins."""
        self._users += 1

    async def leave(self) -> None:
        """Count a POST that has ended, and close if it was the last one of retired sessions."""
        self._users -= 1
        await self._close_if_unused()

    async def retire(self) -> None:
        """Let no POST begin any more; close once the last one has ended."""
        self._is_retired = True
        await self._close_if_unused()

    async def close(self) -> None:
        """Close every connection."""
        for session in self._made.values():
            await session.close()

    async def _close_if_unused(self) -> None:
        if self._is_retired and not self._users:
            await self.close()


class Sender:
    """Posts to subscribers; connections are reused, separately for each trust.

    `timeout_s` bounds the whole exchange, from the name lookup to the last byte of the response.
    """

    def __init__(
        self,
        policies: Mapping[Trust, AddressPolicy],
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.wall_clock = clock or SystemClock()
        """The machine's, as subscribers see it: for signatures and for dates in `Retry-After`."""
        self._lookup = lookup or ThreadLookup()
        self._tls = tls or default_tls()
        self._timeout_s = timeout_s
        self._deadlines = Deadlines()
        self._sessions = _Sessions(policies, lookup=self._lookup, tls=self._tls)

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        trust: Trust,
        custom_headers: Mapping[str, str] | None = None,
        allow_http: bool = False,
    ) -> PostResult:
        """Send `body` once and return the result; raises nothing but CancelledError.

        `headers` are ours (the signatures); `custom_headers` are the endpoint's and never replace ours, `user-agent` or
        `content-type` (application/json unless `headers` says otherwise).
        `allow_http`: this endpoint may use http to a public address, whatever the policy says.
        """
        exchange = Exchange()
        try:
            address = _address(url)
        except InvalidInput as error:
            return _result(exchange, Judged(Outcome.PROTOCOL, error.problems[0].message))
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        all_headers = _merge(headers, custom_headers or {})
        secrets = _secrets_of(url, custom_headers or {})
        request = _Request(address, all_headers, body, trust, allow_http, deadline, secrets)
        token = current.set(exchange)
        sessions = self._sessions
        sessions.enter()
        try:
            result = await self._run(request, exchange, sessions)
            return _without(secrets, result) if secrets else result
        finally:
            current.reset(token)
            await sessions.leave()

    async def replace_policies(
        self, policies: Mapping[Trust, AddressPolicy], *, timeout_s: float | None = None
    ) -> None:
        """Apply `policies` to every POST that begins from now on."""
        old = self._sessions
        self._sessions = _Sessions(policies, lookup=self._lookup, tls=self._tls)
        self._timeout_s = self._timeout_s if timeout_s is None else timeout_s
        await old.retire()

    async def close(self) -> None:
        """Close every connection; POSTs under way fail."""
        await self._sessions.close()

    async def _run(self, request: _Request, exchange: Exchange, sessions: _Sessions) -> PostResult:
        try:
            with self._deadlines.until(request.deadline):
                response = await _send(request, exchange, sessions)
                if (
                    response.status == 410 and exchange.is_reused
                ):  # it switches the endpoint off: is it really its answer?
                    response.close()
                    exchange.begin_again()
                    response = await _send_once(request, sessions, is_pooled=False)
        except TimeoutError:
            is_connected = exchange.has("connected") or exchange.is_reused
            limit_s = self._timeout_s if is_connected else min(CONNECT_TIMEOUT_S, self._timeout_s)
            return _without_head(exchange, judge_timeout(exchange, limit_s))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _without_head(exchange, judge_error(error, exchange))
        judged = judge_status(response.status, response.headers.get("Location"))
        pause_s = None if judged.outcome is Outcome.DELIVERED else self._pause_s(response)
        body = await _read_body(response, request.deadline, request.secrets)
        return _result(exchange, judged, status=response.status, pause_s=pause_s, body=body)

    def _pause_s(self, response: aiohttp.ClientResponse) -> float | None:
        return parse_retry_after(response.headers, now=self.wall_clock.now())


async def _send(request: _Request, exchange: Exchange, sessions: _Sessions) -> aiohttp.ClientResponse:
    """The head of the response; a kept-alive connection that the receiver has closed is replaced once."""
    try:
        return await _send_once(request, sessions, is_pooled=True)
    except aiohttp.ClientError as error:
        if not is_stale_connection(error, exchange):
            raise
    exchange.begin_again()
    return await _send_once(request, sessions, is_pooled=False)


async def _send_once(request: _Request, sessions: _Sessions, *, is_pooled: bool) -> aiohttp.ClientResponse:
    session = sessions.session(
        request.trust,
        is_encrypted=request.url.scheme == "https",
        allow_http=request.allow_http,
        is_pooled=is_pooled,
    )
    return await session.post(
        request.url,
        data=request.body,
        headers=request.headers,
        allow_redirects=False,
        timeout=_CONNECT_TIMEOUT,
    )


async def _read_body(response: aiohttp.ClientResponse, deadline: float, secrets: Collection[str]) -> _Body:
    """The beginning of the body without `secrets`; the connection is reused if the body ended within time and size."""
    content = response.content
    read, note = bytearray(content.read_nowait(READ_BYTES_MAX) if content.is_eof() else b""), None
    if content.at_eof():  # usually it arrives with the head
        if not response.closed:  # usually it is; releasing it again costs 5 us
            response.release()
        return _Body(_head_of(read, secrets), len(read) > HEAD_BYTES_MAX, None)
    is_whole = False
    try:
        async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + BODY_TIMEOUT_S)):
            while len(read) < READ_BYTES_MAX and not is_whole:
                chunk = await content.read(min(_CHUNK_BYTES, READ_BYTES_MAX - len(read)))
                read += chunk
                is_whole = not chunk
        note = None if is_whole else f"its body was cut off after {READ_BYTES_MAX // 1024} KiB"
    except TimeoutError:
        note = "its body did not end in time"
    except (aiohttp.ClientError, OSError, ValueError):
        note = "its body broke off"
    finally:
        if is_whole:
            response.release()
        else:
            response.close()
    return _Body(_head_of(read, secrets), len(read) > HEAD_BYTES_MAX or not is_whole, note)


def _head_of(read: bytearray, secrets: Collection[str]) -> bytes:
    for secret in secrets:
        read = read.replace(secret.encode(), MASK.encode())
    return bytes(read[:HEAD_BYTES_MAX])


def _secrets_of(url: str, custom_headers: Mapping[str, str]) -> Collection[str]:
    """Secrets that some receivers repeat when they refuse a request: values of its headers, and those in its query."""
    if not custom_headers and "?" not in url:
        return ()
    found = {*custom_headers.values(), *(value.rpartition(" ")[2] for value in custom_headers.values())}
    for secret in query_secrets(url):
        found |= {secret, unquote(secret)}
    return sorted((secret for secret in found if len(secret) >= _SECRET_CHARS_MIN), key=len, reverse=True)


def _without(secrets: Collection[str], result: PostResult) -> PostResult:
    detail = result.detail or ""
    for secret in secrets:
        detail = detail.replace(secret, MASK)
    return replace(result, detail=detail or None)


@functools.lru_cache(maxsize=1024)
def _address(url: str) -> URL:
    """The URL with path and query as one path, or yarl would leave out the `?` of an empty query."""
    scheme, _, rest = parse_target(url).url.partition("://")
    authority, _, tail = rest.partition("/")
    return URL.build(scheme=scheme, authority=authority, path=f"/{tail}", encoded=True)


def _merge(ours: Mapping[str, str], custom: Mapping[str, str]) -> CIMultiDict[str]:
    """All headers of a request; leaves out stored custom headers that are refused by now."""
    refused = {problem.field for problem in check_headers(custom)} if custom else ()
    merged = CIMultiDict({name: value for name, value in custom.items() if name not in refused})
    merged.update({"accept": "*/*", "accept-encoding": "identity", "content-type": "application/json"})
    merged.update(ours)
    merged["user-agent"] = f"runbridge/{__version__}"
    return merged


def _without_head(exchange: Exchange, failed: Judged) -> PostResult:
    """The result where no complete head arrived; a complete status line still decides it."""
    judged = judge_broken_head(exchange.status, failed)
    return _result(exchange, judged, status=exchange.status if judged.outcome is Outcome.DELIVERED else None)


def _result(
    exchange: Exchange,
    judged: Judged,
    *,
    status: int | None = None,
    pause_s: float | None = None,
    body: _Body | None = None,
) -> PostResult:
    note = body.note if body else None
    return PostResult(
        outcome=judged.outcome,
        duration_ms=exchange.duration_ms,
        status=status,
        detail=f"{judged.detail or f'the receiver answered {status}'}; {note}" if note else judged.detail,
        retry_after_s=pause_s,
        head=body.head if body else b"",
        head_is_truncated=body.is_truncated if body else False,
        peer=exchange.peer,
        phases=exchange.phases,
    )
