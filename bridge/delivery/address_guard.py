"""The address guard: judges the address of every connection to a subscriber just before it is dialled.

    name ─► one lookup ─► all its addresses judged ─┐
    literal ────────────────────────────────────────┴─► each dial judged ─► socket

Judging in the resolver is not enough: aiohttp does not call it for literal addresses. Proxies are ignored.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.domain.addresses.policy import AddressPolicy, Verdict, judge, own_address
from bridge.domain.errors import InvalidInput
from bridge.domain.webhook_url import check_target, is_localhost, literal_address, mask_query_secrets, parse_target
from bridge.runtime.aiohttp_internals import Connector, WebhookProtocol, WholeRequest, default_tls, mark, note_peer

LOOKUP_MAX_S = 10.0
_READ_BUFFER_BYTES = 16 * 1024
_LOCALHOST = ["127.0.0.1", "::1"]

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class BlockedAddress(OSError):
    """The address guard refuses this address. An OSError, because aiohttp passes those on unchanged."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(errno.EACCES, str(verdict))
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Explanation:
    """The guard's verdict on a URL: `problem` if the URL itself is refused, and a verdict per address."""

    url: str
    problem: str | None
    verdicts: tuple[tuple[str, Verdict], ...]

    @property
    def allowed(self) -> bool:
        """Whether a delivery would be sent: every address of the name must be allowed."""
        return self.problem is None and bool(self.verdicts) and all(verdict.allowed for _, verdict in self.verdicts)


class _GuardedResolver(AbstractResolver):
    def __init__(self, policy: AddressPolicy, lookup: Lookup, *, is_encrypted: bool) -> None:
        self._policy, self._lookup, self._is_encrypted = policy, lookup, is_encrypted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        mark("dns_asked")
        verdicts = await _judge_name(host, port, self._policy, self._lookup, is_encrypted=self._is_encrypted)
        mark("dns_answered")
        for _, verdict in verdicts:
            if not verdict.allowed:
                raise BlockedAddress(verdict)
        return [_result(host, address, port) for address, _ in verdicts]

    async def close(self) -> None:
        """Nothing to close."""


def guarded_session(
    policy: AddressPolicy,
    *,
    is_encrypted: bool,
    lookup: Lookup,
    tls: ssl.SSLContext | None = None,
    is_pooled: bool = True,
) -> aiohttp.ClientSession:
    """A client session that dials only what `policy` allows, either over https (`is_encrypted`) or over http.

    Keeps no cookies, ignores proxy variables, decompresses nothing. A refusal is a BlockedAddress inside aiohttp's own
    errors. Phases are marked on the current exchange; aiohttp's traces for this purpose cost ten calls per request.
    """

    def dial(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, peer = info
        address, port = str(peer[0]), int(str(peer[1]))
        verdict = _judge_dial(address, port, policy, is_encrypted=is_encrypted)
        if not verdict.allowed:
            raise BlockedAddress(verdict)
        mark("dialled")
        note_peer(peer)
        return socket.socket(family, kind, protocol)

    connector = Connector(
        WebhookProtocol,
        resolver=_GuardedResolver(policy, lookup, is_encrypted=is_encrypted),
        socket_factory=dial,
        use_dns_cache=False,
        limit=0,  # the DeliveryLimiter bounds them
        force_close=not is_pooled,
        ssl=default_tls() if tls is None else tls,
    )
    connector.allowed_protocol_schema_set = frozenset({"https" if is_encrypted else "http"})
    return aiohttp.ClientSession(
        connector=connector,
        request_class=WholeRequest if is_pooled else aiohttp.ClientRequest,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_READ_BUFFER_BYTES,
    )


async def allowed_addresses(host: str, port: int, policy: AddressPolicy, *, is_encrypted: bool) -> list[str]:
    """The addresses of `host`, which may be one itself, for another protocol than HTTP.

    Raises BlockedAddress if the policy refuses one, and an OSError if the name cannot be looked up.
    """
    address = literal_address(host)
    if address is not None:
        verdicts = [(str(address), _judge_dial(str(address), port, policy, is_encrypted=is_encrypted))]
    else:
        verdicts = await _judge_name(host, port, policy, ThreadLookup(), is_encrypted=is_encrypted)
    for _, verdict in verdicts:
        if not verdict.allowed:
            raise BlockedAddress(verdict)
    return [address for address, _ in verdicts]


async def explain(url: str, policy: AddressPolicy, *, lookup: Lookup | None = None) -> Explanation:
    """The guard's verdict on a delivery to `url` now. Looks names up, dials nothing."""
    try:
        target = parse_target(url)
    except InvalidInput as error:
        return Explanation(url, error.problems[0].message, ())
    address = literal_address(target.host)
    verdicts: list[tuple[str, Verdict]] = []
    problem = None
    try:
        if address is not None:
            verdicts = [
                (str(address), _judge_dial(str(address), target.port, policy, is_encrypted=target.is_encrypted))
            ]
        else:
            async with asyncio.timeout(LOOKUP_MAX_S):
                verdicts = await _judge_name(
                    target.host, target.port, policy, lookup or ThreadLookup(), is_encrypted=target.is_encrypted
                )
    except OSError as error:
        reason = f"no answer within {LOOKUP_MAX_S:.0f} s" if isinstance(error, TimeoutError) else error.strerror
        problem = f"{target.host} cannot be looked up: {reason}"
    try:
        check_target(url, policy)
    except InvalidInput as error:  # more useful than a failed name lookup
        problem = error.problems[0].message
    return Explanation(mask_query_secrets(target.url), problem, tuple(verdicts))


def _judge_dial(address: str, port: int, policy: AddressPolicy, *, is_encrypted: bool) -> Verdict:
    """As `judge`; where this daemon listens on all addresses of a port, each address of this machine is its own."""
    verdict = judge(address, port, policy, is_encrypted=is_encrypted)
    is_open_everywhere = any(own.is_unspecified and own_port == port for own, own_port in policy.own)
    return own_address(address, port) if verdict.allowed and is_open_everywhere and _is_here(address, port) else verdict


def _is_here(address: str, port: int) -> bool:
    """Whether `address` is one of this machine's: the local end of a route to it has the same address. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))
            return ip_address(probe.getsockname()[0]) == ip_address(address)
    except OSError:
        return False


async def _judge_name(
    host: str, port: int, policy: AddressPolicy, lookup: Lookup, *, is_encrypted: bool
) -> list[tuple[str, Verdict]]:
    """Every address of `host` with its verdict.

    localhost needs no lookup; one allowed address out of its two is enough.
    """
    is_local = is_localhost(host.removesuffix("."))
    addresses = _LOCALHOST if is_local else await lookup(host)
    verdicts = [(address, _judge_dial(address, port, policy, is_encrypted=is_encrypted)) for address in addresses]
    if not verdicts:
        raise socket.gaierror(socket.EAI_NODATA, "the name has no address")
    return [entry for entry in verdicts if entry[1].allowed] or verdicts if is_local else verdicts


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST
    )


Lookup = Callable[[str], Awaitable[list[str]]]

THREADS_MAX = 256  # only names that hang pile up, and each name at most once


class ThreadLookup:
    """Asks the system's resolver (getaddrinfo) in daemon threads; concurrent callers with one name share a query.

    A resolver that hangs would occupy the few threads of the event loop's executor and delay the end of the process.
    Callers may stop waiting for these threads at any time.
    """

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[list[str]]] = {}

    async def __call__(self, name: str) -> list[str]:
        """The addresses of `name`, each once. Raises OSError (gaierror) if there is none."""
        future = self._pending.get(name)
        if future is None:
            future = self._start(name)
        return await asyncio.shield(future)  # one caller's deadline must not cancel the others

    def _start(self, name: str) -> asyncio.Future[list[str]]:
        if len(self._pending) >= THREADS_MAX:
            raise socket.gaierror(socket.EAI_AGAIN, f"{THREADS_MAX} other names are being looked up without an answer")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        future.add_done_callback(lambda done: self._finish(name, done))
        self._pending[name] = future
        threading.Thread(target=_look_up, args=(name, loop, future), name="lookup", daemon=True).start()
        return future

    def _finish(self, name: str, future: asyncio.Future[list[str]]) -> None:
        del self._pending[name]
        if not future.cancelled():
            future.exception()  # marked as retrieved: all callers may have left


def _look_up(name: str, loop: asyncio.AbstractEventLoop, future: asyncio.Future[list[str]]) -> None:
    try:
        # as aiohttp asks: no IPv6 addresses on a machine without IPv6
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        answer: list[str] | OSError = list(dict.fromkeys(str(info[4][0]) for info in found))
    except OSError as error:
        answer = error
    except UnicodeError:
        answer = socket.gaierror(socket.EAI_NONAME, "not a name that can be looked up")
    try:
        loop.call_soon_threadsafe(_deliver, future, answer)
    except RuntimeError:
        return  # the loop has ended


def _deliver(future: asyncio.Future[list[str]], answer: list[str] | OSError) -> None:
    if future.done():
        return
    if isinstance(answer, OSError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
