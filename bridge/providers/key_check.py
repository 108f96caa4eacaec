"""Proves the key of a connection: the provider must answer it, and refuse a wrong one of the same form."""

from __future__ import annotations

import json
import re
import secrets
import string
from dataclasses import replace
from typing import Final

from bridge.domain.connection import Connection
from bridge.domain.errors import Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.secret import Secret
from bridge.providers.base import NOT_PROVEN, Provider
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderSessions
from bridge.providers.registry import open_http

_TAG: Final = re.compile(r"[a-z]{1,8}[-_](?=.{8})", re.ASCII)  # `app-`, `sk_`: says what kind of key it is
_KINDS: Final = ("abcdef", string.ascii_lowercase, "ABCDEF", string.ascii_uppercase, string.digits)  # hex stays hex
_NO_FORM: Final = "runbridge-wrong-key"


async def check_key(
    provider: Provider, connection: Connection, http: ProviderHttp, sessions: ProviderSessions
) -> tuple[bool | None, str]:
    """Whether the provider takes the key of `connection` and refuses a wrong one, and a sentence about it.

    None if it answers this key and no wrong one was refused, or if the definition has no request to check with.
    The wrong key goes over a connection of its own, because some servers know who is at the other end by that.
    """
    try:
        await provider.check(http)
    except Unsupported as nothing:
        return None, str(nothing)
    except ProviderFailure as failure:
        is_refused = failure.failed.kind is FailureKind.UNAUTHORIZED and failure.body is not None
        return False, f"the key is refused; check api_key ({failure})" if is_refused else str(failure)
    if not provider.sends_key:
        return True, f"{connection.base_url} answers; {provider.name} is asked without a key"
    if not provider.presents_wrong_key:
        return None, f"{NOT_PROVEN}the definition of {provider.name} forbids asking with a wrong one"
    other = replace(
        connection,
        api_key=Secret(wrong_key_like(connection.api_key.reveal())),
        options={**connection.options, **_wrong_logins(connection)},
    )
    async with ProviderSessions(sessions.tls, requests_max=1) as own:
        try:
            await provider.present_key(open_http(own, other, provider))
        except ProviderFailure as failure:
            if failure.failed.kind is FailureKind.UNAUTHORIZED:
                return True, f"{connection.base_url} takes the key and refuses a wrong one"
            said = http.redacted(str(failure).removeprefix(NOT_PROVEN))
            return None, f"{NOT_PROVEN}with a wrong key: {said}; try again, or check base_url"
    said = f"{connection.base_url} answers alike with a wrong key; check base_url, unless it needs no key"
    return None, NOT_PROVEN + said


def _wrong_logins(connection: Connection) -> dict[str, str]:
    """Other values for the variables that are exchanged beside the key: a wrong password would lock the user's account."""
    auth = connection.definition.tables.get("auth") if connection.definition else None
    body = json.dumps(auth.get("body")) if isinstance(auth, dict) else ""
    return {name: wrong_key_like(value) for name, value in connection.options.items() if f"{{{name}}}" in body}


def wrong_key_like(key: str) -> str:
    """A key of the same form in which every letter and digit is another; what kind of key it is stays."""
    tag = found[0] if (found := _TAG.match(key)) else ""
    wrong = tag + "".join(map(_another, key.removeprefix(tag)))
    return _NO_FORM if wrong == key else wrong


def _another(char: str) -> str:
    kind = next((kind for kind in _KINDS if char in kind), char)
    return secrets.choice(kind.replace(char, "") or char)
