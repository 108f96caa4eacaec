"""The client sessions of one set of address policies: made when needed, closed when nobody uses them any more."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import replace

import aiohttp

from bridge.delivery.address_guard import guarded_session
from bridge.delivery.dns import Lookup
from bridge.domain.addresses.policy import AddressPolicy, Trust


class Sessions:
    """A session per trust, scheme and leave to use http, each with connections of its own.

    So no connection that one policy allowed is ever used under another.
    """

    def __init__(self, policies: Mapping[Trust, AddressPolicy], *, lookup: Lookup, tls: ssl.SSLContext) -> None:
        self._policies, self._lookup, self._tls = dict(policies), lookup, tls
        self._made: dict[tuple[Trust, bool, bool, bool], aiohttp.ClientSession] = {}
        self._users = 0
        self._is_retired = False

    def session(self, trust: Trust, *, is_encrypted: bool, allow_http: bool, is_pooled: bool) -> aiohttp.ClientSession:
        """The session to post with; one that is not pooled dials anew each time."""
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
        """A post begins."""
        self._users += 1

    async def leave(self) -> None:
        """A post is over; the last one after retirement closes the sessions."""
        self._users -= 1
        if self._is_retired and not self._users:
            await self.close()

    async def retire(self) -> None:
        """No new post will come; close now or when the last one leaves."""
        self._is_retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Close every connection."""
        for session in self._made.values():
            await session.close()
