"""The token that is exchanged for a connection's key, where a definition says so, until it expires."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from bridge.definitions.expressions import Notes, find
from bridge.domain.definition import key_header, key_place
from bridge.domain.failure import FailureKind
from bridge.domain.observation import PollFailed
from bridge.providers.base import exchange_refused
from bridge.providers.definition_reader import number_of
from bridge.providers.definition_requests import fill_address, fill_body
from bridge.providers.fields import text_of
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderResponse

Send = Callable[..., Awaitable[ProviderResponse]]
TOKEN_LIFE_S: Final = 300.0  # of a token whose answer does not say
TOKEN_EARLY_S: Final = 10.0  # it is exchanged again so long before it expires


@dataclass(slots=True)
class _Token:
    text: str
    expires_at: float


def key_of(http: ProviderHttp) -> str:
    """The key of the connection."""
    return http.key.reveal() if http.key else ""


@dataclass(slots=True)
class TokenExchange:
    """Exchanges keys for tokens as `[auth]` says, once for all requests that wait for one."""

    auth: Mapping[str, Any]
    _tokens: WeakKeyDictionary[ProviderHttp, _Token] = field(default_factory=WeakKeyDictionary)
    _locks: WeakKeyDictionary[ProviderHttp, asyncio.Lock] = field(default_factory=WeakKeyDictionary)

    async def with_token(
        self, send: Send, http: ProviderHttp, variables: Mapping[str, str], headers: Mapping[str, str]
    ) -> ProviderResponse:
        """Send a request with a token, and once more with a new one if the first is refused. Raises ProviderFailure."""
        first = await self.header(http, variables, renew=False)  # a refusal of the key itself is final
        try:
            return await send(headers={**headers, **first})
        except ProviderFailure as failure:
            if failure.failed.status != 401:
                raise
        return await send(headers={**headers, **await self.header(http, variables, renew=True)})

    async def header(self, http: ProviderHttp, variables: Mapping[str, str], *, renew: bool) -> dict[str, str]:
        """The header with the token; `renew` exchanges once more. Raises ProviderFailure."""
        now = asyncio.get_running_loop().time()
        known = self._tokens.get(http)
        async with self._locks.setdefault(http, asyncio.Lock()):
            token = self._tokens.get(http)
            if token is None or now >= token.expires_at or (renew and token is known):
                token = self._tokens[http] = await self._exchange(http, {**variables, "key": key_of(http)}, now)
        return key_header(key_place({"auth": self.auth}), token.text)

    async def _exchange(self, http: ProviderHttp, values: Mapping[str, str], now: float) -> _Token:
        method, _, template = self.auth["exchange"].partition(" ")
        path, query = fill_address(template, values, {})
        body = fill_body(self.auth.get("body", {}), values, {}) if method != "GET" else None
        try:
            response = await http.request(method, path, query=query, json_body=body)
        except ProviderFailure as failure:
            raise exchange_refused(failure) from None
        notes = Notes()
        token = text_of(find(self.auth["token"], response.body, notes))
        if token is None:
            message = f"{method} {path}: the answer to the exchange holds no token"
            raise ProviderFailure(PollFailed(FailureKind.UNAUTHORIZED, message, response.status))
        http.hide(token)
        lives = number_of(find(self.auth["expires"], response.body, notes)) if "expires" in self.auth else None
        life_s = float(lives) if isinstance(lives, int | float) and lives > 0 else TOKEN_LIFE_S
        return _Token(token, now + max(life_s - TOKEN_EARLY_S, life_s / 2))
