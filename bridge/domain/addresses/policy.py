"""Judges which addresses a delivery may go to, by an allow list of address space, not by a list of known tricks.

    an address in any spelling ─► the IPv4 inside it ─► our own? ─► what kind? ─► `allow` ─► verdict

`ipaddress.is_global` is not used: it calls NAT64 of loopback and multicast global, and differs between Python
versions. The tables are in `addresses.tables`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from bridge.domain.addresses.tables import KINDS, METADATA, ODD_PORTS, Address, Kind, Network
from bridge.domain.endpoint import EndpointSource

_TRUSTED_KINDS: Final = frozenset({Kind.LOOPBACK, Kind.PRIVATE, Kind.SHARED})
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})  # the upper half of the interface id, RFC 5214 §6.1
_RULE: Final = re.compile(
    r"\[(?P<v6>[^\[\]]+)\](?::(?P<p6>\d+))?|(?P<v4>[^:]+)(?::(?P<p4>\d+))?|(?P<bare>.+)", re.ASCII
)

_NETWORK: Final = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")  # ipaddress alone would take netmasks and hostmasks


class Trust(StrEnum):
    """How far an endpoint is trusted: defined in the operator's file, or created over the API (one-run ones too)."""

    CONFIG = "config"
    API = "api"

    @classmethod
    def of(cls, source: EndpointSource) -> Trust:
        """The trust of an endpoint from `source`."""
        return cls.CONFIG if source is EndpointSource.CONFIG else cls.API


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One entry of `[delivery] allow`: a network, and a port or None for every port."""

    network: Network
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> AllowRule:
        """The rule in `127.0.0.0/8`, `10.0.0.5/32:8080`, `10.0.0.5`, `fd00::/8` or `[fd00::1/128]:8080`.

        ValueError says what to write instead.
        """
        parts = _RULE.fullmatch(text)
        if parts is None or "%" in text:
            raise ValueError(f"{text!r} is not an address or network such as 10.0.0.0/8 or [fd00::1/128]:8080")
        port_text = parts["p6"] or parts["p4"]
        if port_text is not None and not 0 < int(port_text[:6]) <= 65535:
            raise ValueError(f"{text!r} names a port that does not exist; ports are 1 to 65535")
        network = _network(parts["v6"] or parts["v4"] or parts["bare"])
        return cls(network, None if port_text is None else int(port_text))

    @property
    def is_exact(self) -> bool:
        """Whether it names a single address; only such a rule opens a cloud metadata address."""
        return self.network.prefixlen == self.network.max_prefixlen

    def covers(self, address: Address, port: int) -> bool:
        """Whether `address` and `port` lie within this rule."""
        return address in self.network and self.port in {None, port}


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The addresses that endpoints of one trust may reach.

    `allow_http` permits http to public addresses. `own` holds the addresses and ports that this daemon listens on,
    which are always refused; an unspecified address (0.0.0.0, ::) there stands for every loopback address and, at the
    dial, for every other address of this machine.
    """

    trust: Trust
    allow: tuple[AllowRule, ...] = ()
    allow_http: bool = False
    own: tuple[tuple[Address, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an address may be dialled, the rule that decided, and the line of config that would allow it."""

    allowed: bool
    rule: str
    detail: str
    allow_line: str | None = None

    def __str__(self) -> str:
        advice = f"; to allow it: {self.allow_line}" if self.allow_line else ""
        return f"{self.detail} [rule: {self.rule}]{advice}"


def judge(address: str | Address, port: int, policy: AddressPolicy, *, is_encrypted: bool = True) -> Verdict:
    """Whether `policy` allows a delivery to `address` and `port`, over TLS or not (`is_encrypted`).

    The spelling never matters: IPv4 in mapped and NAT64 form is judged as that IPv4.
    """
    given = _parsed(address)
    if isinstance(given, Verdict):
        return given
    if not 0 < port <= 65535:
        return Verdict(allowed=False, rule="port", detail=f"port {port} does not exist")
    real = _unwrapped(given)
    kind, name = _kind_of(real)
    what = f"{given} is {name}" if given == real else f"{given} leads to {real}: {name}"
    rules = [rule for rule in policy.allow if rule.covers(real, port) or rule.covers(given, port)]
    if _is_own(real, kind, port, policy):
        return own_address(given, port)
    match kind:
        case Kind.UNUSABLE:
            return Verdict(allowed=False, rule=kind, detail=what)
        case Kind.PUBLIC:
            return _judge_public(what, real, port, policy, is_encrypted=is_encrypted, is_listed=bool(rules))
        case Kind.METADATA:
            is_open = any(rule.is_exact for rule in rules)
        case _:
            is_open = bool(rules) or (policy.trust is Trust.CONFIG and kind in _TRUSTED_KINDS)
    if is_open:
        return Verdict(allowed=True, rule="allow" if rules else "config file", detail=what)
    return Verdict(allowed=False, rule=kind, detail=what, allow_line=_allow_line(real, port))


def own_address(address: str | Address, port: int) -> Verdict:
    """The verdict on an address and port that this daemon listens on."""
    return Verdict(allowed=False, rule="own address", detail=f"{address} port {port} is this daemon itself")


def _judge_public(
    what: str, address: Address, port: int, policy: AddressPolicy, *, is_encrypted: bool, is_listed: bool
) -> Verdict:
    if port in ODD_PORTS and policy.trust is Trust.API and not is_listed:
        detail = f"{what}, but port {port} belongs to another protocol than HTTP"
        return Verdict(allowed=False, rule="odd port", detail=detail, allow_line=_allow_line(address, port))
    if not is_encrypted and not policy.allow_http:
        detail = f"{what}, and public addresses need https"
        return Verdict(allowed=False, rule="https", detail=detail, allow_line="[delivery] allow_http = true")
    return Verdict(allowed=True, rule=Kind.PUBLIC, detail=what)


def _parsed(address: str | Address) -> Address | Verdict:
    try:
        parsed = ip_address(address) if isinstance(address, str) else address
    except ValueError:
        return Verdict(allowed=False, rule="malformed", detail=f"{address!r} is not an address")
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        return Verdict(allowed=False, rule="zone id", detail=f"{parsed} has a zone id, which only means something here")
    return parsed


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv6Address) and (address in _MAPPED or address in _NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _kind_of(address: Address) -> tuple[Kind, str]:
    if address in METADATA:
        return Kind.METADATA, "a cloud metadata service"
    network, kind, name = next(line for line in KINDS if address in line[0])
    if isinstance(address, IPv6Address) and (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if _kind_of(inner)[0] is not Kind.PUBLIC:
            return Kind.UNUSABLE, f"ISATAP for {inner}"
    return kind, name if kind is Kind.PUBLIC else f"{name} ({network})"


def _is_own(address: Address, kind: Kind, port: int, policy: AddressPolicy) -> bool:
    return any(
        port == own_port and (address == own or (own.is_unspecified and kind is Kind.LOOPBACK))
        for own, own_port in policy.own
    )


def _allow_line(address: Address, port: int) -> str:
    exact = f"{address}/{address.max_prefixlen}"
    return f'[delivery] allow = ["{exact if address.version == 4 else f"[{exact}]"}:{port}"]'


def _network(text: str) -> Network:
    if not _NETWORK.fullmatch(text):
        raise ValueError(f"{text!r} is not an address or network such as 10.0.0.0/8")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an address or network such as 10.0.0.0/8") from None
    host = text.partition("/")[0]
    if ip_address(host) != network.network_address:
        raise ValueError(f"{text!r} has host bits set; write {network} for the network or {host} for the address")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):  # one spelling for rules too
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network
