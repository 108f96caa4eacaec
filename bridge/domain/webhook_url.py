"""Which URLs an endpoint may have, and how they are sent.

The authority is parsed by one parser (yarl); path and query are sent byte by byte as they were given, because receivers
sign or compare them.

Refuses what different parsers read differently and judges literal addresses. Names pass: the guard judges their
addresses at every dial, because a name may lead elsewhere by then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote

from yarl import URL

from bridge.domain.addresses.policy import AddressPolicy, Trust, Verdict, judge
from bridge.domain.addresses.tables import METADATA_NAMES, ODD_PORTS
from bridge.domain.errors import InvalidInput, Problem
from bridge.domain.fields import MASK

URL_CHARACTERS_MAX: Final = 2048  # proxies and logs handle this length
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_SECRET_NAME: Final = re.compile(r"token|secret|key|sig|pass|pwd|auth|cred|code|hash|hmac|session|jwt", re.IGNORECASE)
_TOKEN: Final = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9_.~+=-]{16,}")  # looks random
_START: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::(?P<port>[0-9]{0,5}))?", re.ASCII)
_NO_URI: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?@!$&'()*+,;=%]")  # RFC 3986 §3.3, §3.4
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER_AT_THE_END: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # as the URL standard tells IPv4 from names
_LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be dialled, its scheme and authority normalised; `host` is a lower-case ASCII name or a bare address."""

    url: str
    scheme: str
    host: str
    port: int

    @property
    def is_encrypted(self) -> bool:
        """Whether it is an https URL."""
        return self.scheme == "https"


def check_target(url: str, policy: AddressPolicy) -> Target:
    """Parse `url` and check that `policy` allows it for an endpoint.

    Raises InvalidInput (field `url`) with the rule and, if there is one, the line of config that would allow it.
    """
    if MASK in url:
        raise _refused(f"{MASK} stands for a value that is not shown; give the value itself")
    target = parse_target(url)
    address = literal_address(target.host)
    if address is not None:
        _require(judge(address, target.port, policy, is_encrypted=target.is_encrypted))
    elif is_localhost(target.host):
        verdicts = [judge(own, target.port, policy, is_encrypted=target.is_encrypted) for own in _LOOPBACK]
        _require(next((verdict for verdict in verdicts if verdict.allowed), verdicts[0]))
    else:
        _check_name(target, policy)
    return target


def mask_query_secrets(url: str) -> str:
    """`url` with **** for each query value that is a secret by its name or its look; receivers take tokens there."""
    start, mark, query = url.partition("?")
    return start + mark + "&".join(_mask_parameter(parameter) for parameter in query.split("&"))


def query_secrets(url: str) -> list[str]:
    """The query values that `mask_query_secrets` masks, as they stand in `url`."""
    return [secret for parameter in url.partition("?")[2].split("&") if (secret := _secret_in(parameter))]


def _mask_parameter(parameter: str) -> str:
    secret = _secret_in(parameter)
    return parameter.removesuffix(secret) + MASK if secret else parameter


def _secret_in(parameter: str) -> str:
    """The secret that `parameter` ends with; empty if it has none."""
    name, equals, value = parameter.partition("=")
    if not equals:
        return name if _TOKEN.fullmatch(name) else ""
    return value if _SECRET_NAME.search(unquote(name)) or _TOKEN.fullmatch(unquote(value)) else ""


def parse_target(url: str) -> Target:
    """Parse `url` without checking who may reach it. Raises InvalidInput (field `url`) if it is malformed."""
    host_text, tail = _check_text(url)
    try:
        parsed = URL(url)
        host, port = (parsed.raw_host or "").removesuffix("."), parsed.port
        _ = parsed.host  # decodes the name, which fails for what only looks like an international one
    except ValueError as error:
        raise _refused("it cannot be read as a URL") from error
    if not host or not port:
        raise _refused("it needs a host, and a port between 1 and 65535")
    _check_host(host, host_text)
    sent = f"{parsed.with_host(host).origin()}{_sendable(tail)}"
    if len(sent) > URL_CHARACTERS_MAX:
        raise _refused(f"it is longer than {URL_CHARACTERS_MAX} characters")
    return Target(sent, parsed.scheme, host, port)


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` spells, or None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_localhost(host: str) -> bool:
    """Whether `host` names this machine by RFC 6761, which needs no lookup."""
    return host == "localhost" or host.endswith(".localhost")


def _sendable(tail: str) -> str:
    """Path and query with only those bytes encoded that no URI may hold."""
    encoded = _NO_URI.sub(lambda found: b"%%%02X" % found[0][0], tail.encode()).decode()
    return f"/{encoded}" if encoded.startswith("?") else encoded


def _check_text(url: str) -> tuple[str, str]:
    """The host as written, and path and query. Refuses what parsers are known to read differently."""
    if len(url) > URL_CHARACTERS_MAX:
        raise _refused(f"it is longer than {URL_CHARACTERS_MAX} characters")
    if _FORBIDDEN.search(url):
        raise _refused("it holds a space, a backslash or a character that is not text")
    start = _START.match(url)
    if start is None or start["scheme"].lower() not in {"http", "https"}:
        raise _refused("it must begin with http:// or https://")
    if "@" in start["authority"]:
        raise _refused("it holds a user name or password; put credentials into `headers`")
    if "#" in url:
        raise _refused("it has a fragment (#…), which is never sent; leave it out")
    if "%" in start["authority"]:
        raise _refused("its host holds a percent sign (an encoded character or a zone id)")
    authority = _AUTHORITY.fullmatch(start["authority"])
    if authority is None or int(authority["port"] or 0) > 65535:
        raise _refused("it needs a host, and a port between 1 and 65535")
    return authority["host"], url[start.end() :]


def _check_host(host: str, host_text: str) -> None:
    if host_text.startswith("["):
        if not isinstance(literal_address(host), IPv6Address):
            raise _refused("what stands in brackets is not an IPv6 address")
    elif _NUMBER_AT_THE_END.fullmatch(host):
        if host != host_text or literal_address(host) is None:
            raise _refused("its host is an address in an unusual spelling; write four decimal numbers, as in 192.0.2.1")
    elif len(host) > 253 or not _NAME.fullmatch(host):
        raise _refused("its host is not a valid name")


def _check_name(target: Target, policy: AddressPolicy) -> None:
    if target.host in METADATA_NAMES:
        raise _refused("its host is a cloud metadata service [rule: metadata]")
    if policy.trust is Trust.CONFIG or policy.allow:
        return  # it may lead to a private address that is allowed; the dial decides
    if not target.is_encrypted and not policy.allow_http:
        raise _refused("public addresses need https [rule: https]; to allow it: [delivery] allow_http = true")
    if target.port in ODD_PORTS:
        raise _refused(f"port {target.port} belongs to another protocol than HTTP [rule: odd port]")


def _require(verdict: Verdict) -> None:
    if not verdict.allowed:
        raise _refused(str(verdict))


def _refused(reason: str) -> InvalidInput:
    return InvalidInput([Problem("url", f"this URL is refused: {reason}")])
