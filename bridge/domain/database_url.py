"""Database URLs: `sqlite:///PATH`, and `postgresql://…` with the parameters of libpq.

The driver knows fewer parameters than libpq and sends every other one to the server as a setting. So each is either
translated here or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from bridge.domain.suggestions import unknown

CONNECT_TIMEOUT_S: Final = 5.0
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PASSED_ON: Final = frozenset(  # the driver understands these as libpq does
    {"host", "port", "dbname", "user", "password", "passfile", "service", "sslcert", "sslkey", "sslrootcert", "sslcrl"}
    | {"sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"}
)
_SERVER_SETTINGS: Final = frozenset({"application_name", "options"})


def _one_of(*allowed: str, reason: str) -> Callable[[str], str | None]:
    words = " or ".join(f"`{word}`" for word in allowed)
    return lambda value: None if value in allowed else f"only {words} can be used: {reason}"


def _never(reason: str) -> Callable[[str], str | None]:
    return lambda _value: f"cannot be used: {reason}"


_CHECKED: Final[Mapping[str, Callable[[str], str | None]]] = {
    "sslmode": _one_of(*_SSL_MODES, reason="these are the modes of PostgreSQL"),
    "target_session_attrs": _one_of("any", "read-write", "primary", reason="the daemon writes"),
    "client_encoding": _one_of("UTF8", "utf8", "UTF-8", "utf-8", "auto", reason="the daemon speaks UTF-8"),
    "channel_binding": _one_of("prefer", "disable", reason="the driver cannot bind channels; use sslmode=verify-full"),
    "gssencmode": _one_of("prefer", "disable", reason="the driver has no GSSAPI encryption; use sslmode"),
    "sslcertmode": _one_of("allow", "disable", reason="the driver sends a certificate where the server asks for one"),
    "sslsni": _one_of("1", reason="the driver always names the host to the server"),
    "load_balance_hosts": _one_of("disable", reason="the driver tries hosts in their order"),
    "replication": _one_of("false", "off", "no", "0", reason="the daemon opens ordinary connections"),
    "require_auth": _never("the driver accepts the method that the server asks for; restrict it in pg_hba.conf"),
    "hostaddr": _never("write the address as the host"),
    "requirepeer": _never("restrict who may create the socket by the permissions of its folder"),
    "requiressl": _never("write sslmode=require"),
    "sslcompression": _never("TLS has no compression any more; leave it out"),
    "sslcrldir": _never("name one file with sslcrl"),
    "gssdelegation": _never("the driver delegates no credentials; leave it out"),
    "servicefile": _never("set PGSERVICEFILE in the daemon's environment"),
    "keepalives": _never("the daemon has its own time limits; leave it out"),
    "keepalives_idle": _never("the daemon has its own time limits; leave it out"),
    "keepalives_interval": _never("the daemon has its own time limits; leave it out"),
    "keepalives_count": _never("the daemon has its own time limits; leave it out"),
    "tcp_user_timeout": _never("the daemon has its own time limits; leave it out"),
}
_PORT: Final = re.compile(r":(\d+)$", re.ASCII)
_OWN: Final = frozenset({"connect_timeout", "fallback_application_name"})
_PARAMETERS: Final = tuple(sorted(_PASSED_ON | _SERVER_SETTINGS | _OWN | _CHECKED.keys()))
_DROPPED: Final = frozenset(_CHECKED) - {"sslmode", "target_session_attrs"}  # what is allowed is what the driver does


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """The target as the driver takes it: a URL with the parameters it knows, a time limit, and settings for the server."""

    dsn: str
    connect_timeout_s: float
    server_settings: dict[str, str]


def postgres_target(url: str) -> PostgresTarget:
    """Translate a `postgresql://…` URL; ValueError names a parameter that cannot be translated."""
    base, _, query = url.partition("?")
    settings, passed, timeout_s = {"application_name": "runbridge"}, [], CONNECT_TIMEOUT_S
    parameters = parse_qsl(query, keep_blank_values=True)
    _check_ports(base, parameters)
    for name, value in parameters:
        _check(name, value)
        match name:
            case "connect_timeout":
                timeout_s = _connect_timeout(value)
            case "fallback_application_name":
                settings["application_name"] = value
            case "application_name" | "options":
                continue  # below, because they win over the fallback
            case _ if name not in _DROPPED:
                passed.append((name, value))
    settings |= {name: value for name, value in parameters if name in _SERVER_SETTINGS}
    dsn = f"{base}?{urlencode(passed, quote_via=quote)}" if passed else base
    return PostgresTarget(dsn, timeout_s, settings)


def _check_ports(base: str, parameters: Iterable[tuple[str, str]]) -> None:
    hosts = base.partition("://")[2].rpartition("@")[2].partition("/")[0]  # a password may have slashes
    given = [found[1] for host in hosts.split(",") if (found := _PORT.search(host))]
    given += [port for name, value in parameters if name == "port" for port in value.split(",")]
    for port in given:
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"port {port[:20]}: expected a number from 1 to 65535")


def _check(name: str, value: str) -> None:
    if name not in _PARAMETERS:
        raise ValueError(f"{name}: {unknown('parameter', name, _PARAMETERS)}")
    problem = _CHECKED[name](value) if name in _CHECKED else None
    if problem:
        raise ValueError(f"{name}={value}: {problem}")


def _connect_timeout(value: str) -> float:
    if not value.isascii() or not value.isdigit() or int(value) > 3600:
        raise ValueError(f"connect_timeout={value[:20]}: expected whole seconds from 0 (the default) to 3600")
    return float(value) if int(value) else CONNECT_TIMEOUT_S
