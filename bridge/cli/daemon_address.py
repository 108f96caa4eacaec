"""Address and token of the daemon: from flags, then the environment, then the configuration file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import click

from bridge.domain.errors import BridgeError
from bridge.domain.secret import Secret

T = TypeVar("T")
_PLAIN_LISTEN: Final = re.compile(r"(127\.0\.0\.1|localhost):[1-9][0-9]{0,4}")
_PLAIN_TOKEN: Final = re.compile(r"[!-~]+")
NO_TOKEN = "no token was found"  # noqa: S105 - the origin of a missing token
DEFAULT_URL = "http://127.0.0.1:8484"
_LOOPBACK_OF_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how to reach a daemon that listens everywhere


class DaemonUnreachable(BridgeError):
    """No daemon answers at its address."""


class ApiRefused(BridgeError):
    """The daemon refused the request; `is_wrong_use` is true for a malformed one."""

    def __init__(self, message: str, *, is_wrong_use: bool = False) -> None:
        self.is_wrong_use = is_wrong_use
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """How to reach the daemon. `socket` is the path of a Unix socket; `origin` is where the address was given."""

    host: str
    port: int
    origin: str
    token: Secret | None = None
    token_from: str = NO_TOKEN
    is_tls: bool = False
    prefix: str = ""
    socket: str | None = None

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}{self.prefix}"


def find_daemon(
    *, url: str | None, token: Secret | None, config_path: Path | None, env: Mapping[str, str]
) -> DaemonAddress:
    """Return address and token, each from the first source that has it.

    The default address applies where no source has one. A missing token is for the daemon to refuse.
    Raises click.UsageError for a malformed address.
    """
    url, url_origin = _first((url, "--url"), (env.get("RUNBRIDGE_URL"), "RUNBRIDGE_URL"))
    given, token_origin = _first((token, "--token"), (_secret(env.get("RUNBRIDGE_TOKEN")), "RUNBRIDGE_TOKEN"))
    if url is None or given is None:
        listen, configured, origin = _from_config(config_path, env)
        if url is None:
            url, url_origin = listen, origin
        if given is None and configured is not None:
            given, token_origin = configured, origin
    return _parse(url or DEFAULT_URL, url_origin or "the default", given, token_origin or NO_TOKEN)


def _secret(text: str | None) -> Secret | None:
    return Secret(text.strip()) if text and text.strip() else None


def _first(*candidates: tuple[T | None, str]) -> tuple[T | None, str]:
    return next(((value, origin) for value, origin in candidates if value), (None, ""))


def _from_config(config_path: Path | None, env: Mapping[str, str]) -> tuple[str, Secret | None, str]:
    """Address, token and the name of their source; the defaults without a configuration file."""
    from bridge.config.locate import find_config

    path = find_config(config_path, env)
    if path is not None and (plain := _read_plain(path, env)) is not None:
        return *plain, str(path)
    from bridge.config.reach import read_reach

    listen, token = read_reach(path, env=env)
    if listen.path is not None:
        return f"unix:{listen.path}", token, str(path)
    host = _LOOPBACK_OF_ANY.get(listen.host or "", listen.host or "")
    return f"http://{f'[{host}]' if ':' in host else host}:{listen.port}", token, str(path) if path else "the default"


def _read_plain(path: Path, env: Mapping[str, str]) -> tuple[str, Secret] | None:
    """The address and the token where `[server]` holds both as most files do; None leaves it to `read_reach`.

    Loading the models of the whole configuration would take longer than the rest of `runbridge runs list`.
    """
    import tomllib

    if any(name.upper().startswith("RUNBRIDGE_SERVER") for name in env):
        return None
    try:
        server = tomllib.loads(path.read_text(encoding="utf-8-sig"))["server"]
        listen, token = server["listen"], server["api_token"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None
    is_plain = isinstance(listen, str) and isinstance(token, str) and _PLAIN_TOKEN.fullmatch(token)
    return (f"http://{listen}", Secret(token)) if is_plain and _PLAIN_LISTEN.fullmatch(listen) else None


def _parse(url: str, origin: str, token: Secret | None, token_origin: str) -> DaemonAddress:
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        return DaemonAddress("localhost", 80, origin, token, token_origin, socket=path)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.query:
        raise click.UsageError(f"{origin}: {url!r} is not an address of a daemon; expected {DEFAULT_URL} or unix:/path")
    is_tls = parts.scheme == "https"
    return DaemonAddress(
        host,
        port or (443 if is_tls else 80),
        origin,
        token,
        token_origin,
        is_tls=is_tls,
        prefix=parts.path.rstrip("/"),
    )
