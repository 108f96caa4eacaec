"""The address guard: every dial to a subscriber is judged, on the very address that is about to be dialled.

    name ─► one lookup ─► all addresses of the answer judged ─┐
    literal ──────────────────────────────────────────────────┴─► each dial judged ─► socket

A resolver alone is no guard: aiohttp never asks it about literal addresses. Ignores proxies in the environment.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from bridge.delivery.dns import Lookup, ThreadLookup
from bridge.delivery.exchange import default_tls, mark, note_peer
from bridge.delivery.http_connection import WaryHandler
from bridge.domain.addresses.policy import AddressPolicy, Verdict, judge, own_address
from bridge.domain.errors import InvalidInput
from bridge.domain.webhook_url import check_target, is_localhost, literal_address, parse_target

LOOKUP_MAX_S = 10.0
_READ_BUFFER_BYTES = 16 * 1024
_LOCALHOST = ["127.0.0.1", "::1"]

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class BlockedAddress(OSError):
    """The address guard refuses this address; an OSError, so that aiohttp hands it on as it is."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(errno.EACCES, str(verdict))
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the guard says about a URL: `problem` (it is refused as it stands), or a verdict per address."""

    url: str
    problem: str | None
    verdicts: tuple[tuple[str, Verdict], ...]

    @property
    def allowed(self) -> bool:
        """Whether a delivery would be dialled: one address that may not be reached spoils the whole answer."""
        return self.problem is None and bool(self.verdicts) and all(verdict.allowed for _, verdict in self.verdicts)


class _OneScheme(aiohttp.TCPConnector):
    """A connector that speaks either http or https: which one it is decides about public addresses."""

    def __init__(self, scheme: str, **options: Any) -> None:
        super().__init__(**options)
        self.allowed_protocol_schema_set = frozenset({scheme})
        # the one private name of aiohttp that we touch; the sender's tests would notice its loss
        self._factory = cast("functools.partial[ResponseHandler]", functools.partial(WaryHandler, loop=self._loop))


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
    """A client session that dials only what `policy` allows, over https (`is_encrypted`) or http alone.

    Keeps no cookies, follows no environment, unpacks nothing. Refusals are BlockedAddress, inside aiohttp's own errors.
    The phases of a request are marked on the current exchange (a trace, which aiohttp has for that, costs ten calls).
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

    connector = _OneScheme(
        "https" if is_encrypted else "http",
        resolver=_GuardedResolver(policy, lookup, is_encrypted=is_encrypted),
        socket_factory=dial,
        use_dns_cache=False,
        limit=0,  # the deliverer's seats are the bound
        force_close=not is_pooled,
        ssl=default_tls() if tls is None else tls,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_READ_BUFFER_BYTES,
    )


async def explain(url: str, policy: AddressPolicy, *, lookup: Lookup | None = None) -> Explanation:
    """What the guard would say to a delivery to `url` now; asks the resolver for names, dials nothing."""
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
    except InvalidInput as error:  # says more than a name that cannot be looked up from here
        problem = error.problems[0].message
    return Explanation(target.url, problem, tuple(verdicts))


def _judge_dial(address: str, port: int, policy: AddressPolicy, *, is_encrypted: bool) -> Verdict:
    """As `judge`, and on a port where we listen on all addresses each that this machine has is our own."""
    verdict = judge(address, port, policy, is_encrypted=is_encrypted)
    is_open_everywhere = any(own.is_unspecified and own_port == port for own, own_port in policy.own)
    return own_address(address, port) if verdict.allowed and is_open_everywhere and _is_here(address, port) else verdict


def _is_here(address: str, port: int) -> bool:
    """Whether `address` is this machine's: the way there begins where it ends. Sends nothing."""
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

    localhost needs no lookup, and of its two addresses one that is allowed is enough.
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
