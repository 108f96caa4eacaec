"""The sender: one POST to a subscriber through the address guard, bounded in time and size, judged once.

    open a session (trust, scheme) ─► post within the deadline ─► head: the outcome ─► body: 8 KiB kept ─► Answer

Success is decided by the status line: what comes after it can be cut off, endless or garbage without changing the
outcome. Follows no redirect, keeps no cookie, unpacks nothing, heeds no proxy variable.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import aiohttp
from yarl import URL

from bridge import __version__
from bridge.domain.address import AddressPolicy, Trust
from bridge.domain.clock import Clock, SystemClock
from bridge.domain.delivery import Answer, Outcome
from bridge.domain.retry_after import retry_after_s
from bridge.workers.classify import Judged, is_stale_connection, judge_error, judge_status, judge_timeout
from bridge.workers.exchange import Exchange, client_tls, current
from bridge.workers.guard import guarded_session
from bridge.workers.lookup import Lookup, ThreadLookup

TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 5.0  # name lookup, connection and TLS together
BODY_TIMEOUT_S: Final = 5.0
HEAD_BYTES_MAX: Final = 8 * 1024
READ_BYTES_MAX: Final = 64 * 1024


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
        self._tls = tls or client_tls()
        self._timeout_s = timeout_s
        self._doors = _Doors(policies, self._lookup, self._tls)

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        trust: Trust,
        custom_headers: Mapping[str, str] | None = None,
        allow_http: bool = False,
    ) -> Answer:
        """Send `body` once and say what came of it; raises nothing but CancelledError.

        `headers` are ours (the signature's); `custom_headers` the endpoint's own, which never replace ours,
        `user-agent` or `content-type` (application/json unless `headers` says otherwise).
        `allow_http`: this endpoint may use plain http to a public address, whatever the policy says.
        """
        exchange = Exchange()
        current.set(exchange)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        async with self._doors.entered() as doors:
            request = _Request(URL(url, encoded=True), _merge(headers, custom_headers), body, deadline, exchange)
            sessions = doors.sessions(trust, is_encrypted=request.url.scheme == "https", allow_http=allow_http)
            return await self._exchange(request, sessions)
