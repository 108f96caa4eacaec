"""The sender: one POST to a subscriber through the address guard, bounded in time and size, judged once.

    session of its trust and scheme ─► post ─► head: the outcome ─► body: 8 KiB of it kept ─► Answer

Success is decided by the status line: headers and body may be cut off, endless or garbage without changing the
outcome. Follows no redirect, keeps no cookie, unpacks nothing, heeds no proxy variable.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from bridge import __version__
from bridge.delivery.client_sessions import Sessions
from bridge.delivery.dns import Lookup, ThreadLookup
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
from bridge.domain.delivery import Outcome, PostResult
from bridge.domain.errors import InvalidInput
from bridge.domain.frozen import frozen
from bridge.domain.retry_after import retry_after_s
from bridge.domain.webhook_url import parse_target
from bridge.runtime.aiohttp_internals import Exchange, current, default_tls

TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 5.0  # name lookup, connection and TLS together
BODY_TIMEOUT_S: Final = 5.0
HEAD_BYTES_MAX: Final = 8 * 1024
READ_BYTES_MAX: Final = 64 * 1024
_CHUNK_BYTES: Final = 16 * 1024
_CONNECT_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)


@frozen
class _Request:
    url: URL
    headers: CIMultiDict[str]
    body: bytes
    trust: Trust
    allow_http: bool
    deadline: float


@frozen
class _Body:
    head: bytes
    is_truncated: bool
    note: str | None


class Sender:
    """Posts to subscribers; connections are kept for the next post, apart for each trust.

    `timeout_s` bounds the whole exchange, from the name lookup to the last byte of the answer.
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
        self._clock = clock or SystemClock()
        self._lookup = lookup or ThreadLookup()
        self._tls = tls or default_tls()
        self._timeout_s = timeout_s
        self._sessions = Sessions(policies, lookup=self._lookup, tls=self._tls)

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
        """Send `body` once and say what came of it; raises nothing but CancelledError.

        `headers` are ours (the signature's); `custom_headers` the endpoint's own, which never replace ours,
        `user-agent` or `content-type` (application/json unless `headers` says otherwise).
        `allow_http`: this endpoint may use plain http to a public address, whatever the policy says.
        """
        exchange = Exchange()
        try:
            address = _address(url)
        except InvalidInput as error:
            return _answer(exchange, Judged(Outcome.PROTOCOL, error.problems[0].message))
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        all_headers = _merge(headers, custom_headers or {})
        request = _Request(address, all_headers, body, trust, allow_http, deadline)
        token = current.set(exchange)
        sessions = self._sessions
        sessions.enter()
        try:
            return await self._run(request, exchange, sessions)
        finally:
            current.reset(token)
            await sessions.leave()

    async def replace_policies(
        self, policies: Mapping[Trust, AddressPolicy], *, timeout_s: float | None = None
    ) -> None:
        """Judge all posts from now on by `policies`; posts under way end as they began."""
        old = self._sessions
        self._sessions = Sessions(policies, lookup=self._lookup, tls=self._tls)
        self._timeout_s = self._timeout_s if timeout_s is None else timeout_s
        await old.retire()

    async def close(self) -> None:
        """Close every connection; posts under way fail."""
        await self._sessions.close()

    async def _run(self, request: _Request, exchange: Exchange, sessions: Sessions) -> PostResult:
        try:
            async with asyncio.timeout_at(request.deadline):
                response = await _send(request, exchange, sessions)
        except TimeoutError:
            is_connected = exchange.has("connected") or exchange.is_reused
            limit_s = self._timeout_s if is_connected else min(CONNECT_TIMEOUT_S, self._timeout_s)
            return _without_head(exchange, judge_timeout(exchange, limit_s))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _without_head(exchange, judge_error(error, exchange))
        judged = judge_status(response.status, response.headers.get("Location"))
        pause_s = None if judged.outcome is Outcome.DELIVERED else self._pause_s(response)
        body = await _read_body(response, request.deadline)
        return _answer(exchange, judged, status=response.status, pause_s=pause_s, body=body)

    def _pause_s(self, response: aiohttp.ClientResponse) -> float | None:
        return retry_after_s(response.headers, now=self._clock.now())


async def _send(request: _Request, exchange: Exchange, sessions: Sessions) -> aiohttp.ClientResponse:
    """The answer's head; a kept connection that the receiver has closed meanwhile is no failure of its own."""
    try:
        return await _send_once(request, sessions, is_pooled=True)
    except aiohttp.ClientError as error:
        if not is_stale_connection(error, exchange):
            raise
    exchange.begin_again()
    return await _send_once(request, sessions, is_pooled=False)


async def _send_once(request: _Request, sessions: Sessions, *, is_pooled: bool) -> aiohttp.ClientResponse:
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


async def _read_body(response: aiohttp.ClientResponse, deadline: float) -> _Body:
    """The beginning of the body; the connection is kept only where the body came to its end in time and size."""
    content = response.content
    read, note = bytearray(content.read_nowait(READ_BYTES_MAX) if content.is_eof() else b""), None
    if content.at_eof():  # all of it came with the head, as mostly: nothing to wait for
        if not response.closed:  # it is as soon as its end has come; saying so again costs 5 us
            response.release()
        return _Body(bytes(read[:HEAD_BYTES_MAX]), len(read) > HEAD_BYTES_MAX, None)
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
    return _Body(bytes(read[:HEAD_BYTES_MAX]), len(read) > HEAD_BYTES_MAX or not is_whole, note)


@functools.lru_cache(maxsize=1024)
def _address(url: str) -> URL:
    return URL(parse_target(url).url, encoded=True)


def _merge(ours: Mapping[str, str], custom: Mapping[str, str]) -> CIMultiDict[str]:
    """All headers of a request. What the doors refuse today but let in once is left out."""
    refused = {problem.field for problem in check_headers(custom)} if custom else ()
    merged = CIMultiDict({name: value for name, value in custom.items() if name not in refused})
    merged.update({"accept": "*/*", "accept-encoding": "identity", "content-type": "application/json"})
    merged.update(ours)
    merged["user-agent"] = f"runbridge/{__version__}"
    return merged


def _without_head(exchange: Exchange, failed: Judged) -> PostResult:
    """The answer where no complete head came, yet perhaps the status line that decides."""
    judged = judge_broken_head(exchange.status, failed)
    return _answer(exchange, judged, status=exchange.status if judged.outcome is Outcome.DELIVERED else None)


def _answer(
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
