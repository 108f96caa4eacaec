"""The caller of a request: by the token that it sends, or by the cookie of a session that was opened with one."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from bridge.api.problem import Refusal
from bridge.domain.api_token import ApiToken, Scope
from bridge.domain.clock import Clock
from bridge.domain.frozen import frozen
from bridge.store import sessions
from bridge.store.database import Database

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
WAITING_MAX: Final = 4
DELAY_MAX_S: Final = 5.0
_FIRST_DELAY_S: Final = 0.1
_FORGET_AFTER_S: Final = 600.0
_ADDRESSES_MAX: Final = 10_000
_HEADERS_MAX: Final = 100  # spellings of good ones that are remembered
_SECURE_COOKIE: Final = "__Host-runbridge"
_WITHOUT_ONE: Final = "the token is missing or wrong; send it as `Authorization: Bearer …` ([server] api_token)"
_REALM: Final = 'Bearer realm="runbridge"'
_INVALID: Final = f'{_REALM}, error="invalid_token"'
_log = structlog.get_logger("bridge.api")


@dataclass(frozen=True, slots=True)
class DashboardRules:
    """[dashboard]: whether there is one, and whether its sessions may change anything."""

    enabled: bool = True
    read_only: bool = False


@frozen
class Caller:
    """The token's name and what it may do here; `session` is set if it came by a cookie."""

    name: str
    scope: Scope
    session: sessions.Session | None = None

    def require(self, wanted: Scope) -> None:
        """Raise a Refusal if the scope is less than `wanted`."""
        if self.scope.covers(wanted):
            return
        remedy = "use another one" if self.session is None else "sign in with another one"
        what = f"the token {self.name!r} has the scope {self.scope.value!r}"
        if self.session is not None:
            what = f"this session of the token {self.name!r} has the scope {self.scope.value!r}"
            remedy += ", or look at [dashboard] read_only"
        raise Refusal(403, f"{what}, and this needs {wanted.value!r}; {remedy}")


CALLER = web.RequestKey("caller", Caller)


class Tokens:
    """The tokens by their digests, so that neither time nor length reveals anything about one."""

    def __init__(self, tokens: Sequence[ApiToken]) -> None:
        self._tokens = [(hashlib.sha256(each.token.reveal().encode()).digest(), each) for each in tokens]
        self._by_header: dict[str, ApiToken] = {}

    def in_header(self, header: str) -> ApiToken | None:
        """The token in an `Authorization` header.

        A header that was good once is found again by its text: a dictionary compares keyed hashes first, so that the
        time reveals nothing here either.
        """
        token = self._by_header.get(header)
        if token is None:
            scheme, _, given = header.partition(" ")
            token = self.find(given.strip()) if scheme.lower() == "bearer" else None
            if token is not None and len(self._by_header) < _HEADERS_MAX:
                self._by_header[header] = token
        return token

    def find(self, given: str) -> ApiToken | None:
        """The token whose secret is `given`; None if there is none."""
        digest = hashlib.sha256(given.encode(errors="surrogateescape")).digest()
        found = [token for known, token in self._tokens if hmac.compare_digest(digest, known)]
        return found[0] if found else None

    def by_name(self, name: str) -> ApiToken | None:
        """The token of this name."""
        return next((token for _, token in self._tokens if token.name == name), None)

    def replaced_by(self, tokens: Tokens) -> list[str]:
        """The names of these tokens that `tokens` does not have, or has with another secret."""
        kept = {(key, token.name) for key, token in tokens._tokens}
        return [token.name for key, token in self._tokens if (key, token.name) not in kept]

    def hashes(self, secret: str, name: str | None = None) -> list[str]:
        """The stored forms of a session's `secret`: keyed by each token, or by that of `name`.

        A session whose token was removed or changed is therefore not found.
        """
        text = secret.encode(errors="surrogateescape")
        return [hmac.digest(key, text, "sha256").hex() for key, token in self._tokens if name in (None, token.name)]


class Rules:
    """The operator's rules for requests; a reload changes them while requests arrive.

    `allowed_hosts`: names and addresses without port, lower case, IPv6 in brackets.
    """

    def __init__(
        self, tokens: Sequence[ApiToken], allowed_hosts: frozenset[str], body_bytes_max: int, dashboard: DashboardRules
    ) -> None:
        self.tokens = Tokens(())
        self.change(tokens, allowed_hosts, body_bytes_max, dashboard)

    def change(
        self, tokens: Sequence[ApiToken], allowed_hosts: frozenset[str], body_bytes_max: int, dashboard: DashboardRules
    ) -> list[str]:
        """Apply to every request from now on. Returns the names of the tokens that are good no longer."""
        before, self.tokens = self.tokens, Tokens(tokens)
        self.allowed_hosts = allowed_hosts
        self.body_bytes_max = body_bytes_max
        self.dashboard = dashboard
        return before.replaced_by(self.tokens)

    def check_dashboard(self) -> None:
        """Raise a Refusal if the dashboard is switched off."""
        if not self.dashboard.enabled:
            raise Refusal(404, "the dashboard is switched off; set enabled = true under [dashboard] to use it")


class WrongTries:
    """Wrong tokens by address: counted, logged at 1, 2, 4, 8, …, and answered more slowly each time at a sign-in."""

    def __init__(self, clock: Clock, registry: CollectorRegistry) -> None:
        self._clock = clock
        self._counter = Counter("runbridge_wrong_tokens_total", "Wrong tokens", ["at"], registry=registry)
        for at in ("sign_in", "request"):
            self._counter.labels(at)
        self._tries: dict[str, tuple[float, int]] = {}
        self._waiting: dict[str, int] = {}

    def note(self, request: web.Request, at: str) -> float:
        """Count one at `sign_in` or `request`. Returns the seconds after which to answer it at a sign-in."""
        self._counter.labels(at).inc()
        address, now = _address_of(request), self._clock.monotonic()
        last_at, count = self._tries.pop(address, (now, 0))
        count = 1 if now - last_at > _FORGET_AFTER_S else count + 1
        self._tries[address] = (now, count)
        if len(self._tries) > _ADDRESSES_MAX:
            del self._tries[next(iter(self._tries))]
        if not count & (count - 1):
            _log.warning("api.token_refused", at=at, address=address, tries=count)
        return float(min(DELAY_MAX_S, _FIRST_DELAY_S * 2 ** min(count - 1, 16)))

    def begin(self, request: web.Request) -> None:
        """Begin a sign-in, which `end` must follow. Raises a Refusal while too many from its address are under way."""
        address = _address_of(request)
        if self._waiting.get(address, 0) >= WAITING_MAX:
            detail = "too many sign-ins from this address are under way; wait a few seconds and try again"
            raise Refusal(429, detail, Retry_After=str(round(DELAY_MAX_S)))
        self._waiting[address] = self._waiting.get(address, 0) + 1

    def end(self, request: web.Request) -> None:
        """End a sign-in."""
        address = _address_of(request)
        self._waiting[address] -= 1
        if not self._waiting[address]:
            del self._waiting[address]


def _address_of(request: web.Request) -> str:
    """The peer's address; of IPv6 its /64, which one customer has for himself."""
    try:
        address = ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return "local"
    return f"{IPv6Address(int(address) >> 64 << 64)}/64" if isinstance(address, IPv6Address) else str(address)


class Authentication:
    """Finds the caller of a request. `note_wrong` counts a wrong token."""

    def __init__(self, rules: Rules, database: Database, wrong_tries: WrongTries) -> None:
        self._rules = rules
        self._database = database
        self._wrong_tries = wrong_tries

    async def caller(self, request: web.Request) -> Caller:
        """By the `Authorization` header, else by the cookie. Raises a Refusal if neither is good."""
        if (header := request.headers.get("Authorization")) is not None:
            return self._by_token(request, header)
        if secrets_given := cookies_of(request):
            return await self._by_cookie(request, secrets_given)
        raise _unknown(_WITHOUT_ONE, challenge=_REALM)

    def _by_token(self, request: web.Request, header: str) -> Caller:
        token = self._rules.tokens.in_header(header)
        if token is None:
            self._wrong_tries.note(request, "request")
            raise _unknown(_WITHOUT_ONE)
        return Caller(token.name, token.scope)

    async def _by_cookie(self, request: web.Request, given: Sequence[str]) -> Caller:
        row = await self._find_session(given)
        if row is None:
            raise _unknown("the session has ended; sign in again")
        if request.method not in READING:
            check_same_origin(request)
        if self._database.clock.now() - row.last_used_at > sessions.TOUCH_EVERY:
            await self._database.write(lambda tx: sessions.touch(tx, row.id))
        token = self._rules.tokens.by_name(row.token)
        assert token is not None  # its hash was found by it
        return Caller(token.name, self.scope_in_session(token), row)

    async def _find_session(self, given: Sequence[str]) -> sessions.Session | None:
        if not self._rules.dashboard.enabled:
            return None
        hashes = [each for secret in given for each in self._rules.tokens.hashes(secret)]
        return await self._database.read(lambda tx: sessions.find(tx, hashes))

    async def has_ended(self, request: web.Request) -> bool:
        """Whether the token or the session that a long answer began with is good no longer."""
        if request[CALLER].session is not None:
            return await self._find_session(cookies_of(request)) is None
        return self._rules.tokens.in_header(request.headers.get("Authorization", "")) is None

    def scope_in_session(self, token: ApiToken) -> Scope:
        """The scope of a session that this token opens."""
        return Scope.READ if self._rules.dashboard.read_only else token.scope


def _unknown(detail: str, *, challenge: str = _INVALID) -> Refusal:
    """RFC 6750: a request without any token gets no error code."""
    return Refusal(401, detail, WWW_Authenticate=challenge)


def check_same_origin(request: web.Request) -> None:
    """Raise a Refusal unless a page of ours sent this, by `Sec-Fetch-Site`, or by `Origin` where a browser omits it.

    Browsers omit it on plain HTTP to other names than localhost.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin", "")
    if site == "same-origin" or (site is None and origin.partition("://")[2] == request.headers.get("Host", "/")):
        return
    detail = "with a session's cookie this needs `Sec-Fetch-Site: same-origin`, which browsers send from the dashboard"
    raise Refusal(403, f"{detail}; programs send the token as `Authorization: Bearer …`")


# -- the cookie


def cookies_of(request: web.Request) -> list[str]:
    """The secrets in the cookies that may be of a session here."""
    if "Cookie" not in request.headers:
        return []
    found = (request.cookies.get(name) for name in (_SECURE_COOKIE, _plain_cookie(request)))
    return [secret for secret in found if secret]


def new_secret() -> str:
    """A secret of 256 random bits for a session or a link."""
    return secrets.token_urlsafe(32)


def set_cookie(request: web.Request, secret: str) -> dict[str, str]:
    """The header that gives a session's secret to the browser.

    Cookies ignore ports, hence the port in its name. Behind TLS, which the page's `Origin` shows, it is `__Host-`.
    """
    if request.headers.get("Origin", "").startswith("https://"):
        return {"Set-Cookie": f"{_SECURE_COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict; Secure"}
    return {"Set-Cookie": f"{_plain_cookie(request)}={secret}; Path=/v1; HttpOnly; SameSite=Strict"}


def clear_cookie(request: web.Request) -> dict[str, str]:
    """The header that removes it."""
    name, _, rest = set_cookie(request, "")["Set-Cookie"].partition("=")
    return {"Set-Cookie": f"{name}={rest}; Max-Age=0"}


def _plain_cookie(request: web.Request) -> str:
    port = request.headers.get("Host", "").rpartition("]")[2].rpartition(":")[2]
    return f"runbridge-{port if port.isdecimal() else 80}"
