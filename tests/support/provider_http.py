"""A provider's client against a server on loopback, as the poller would have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bridge.definitions.schema import STATUSES
from bridge.domain.connection import Connection
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.providers import open_http
from bridge.providers.base import Provider
from bridge.providers.defined import DefinedProvider
from bridge.providers.http import ProviderHttp, ProviderSessions
from tests.support.foreign_server import ForeignServer, Handler, foreign_server

KEY = "key-0123456789"


@asynccontextmanager
async def provider_against(
    handler: Handler, provider: str, *, suffix: str = "", timeout_s: float = 20.0, **options: str
) -> AsyncIterator[tuple[ProviderHttp, ForeignServer]]:
    """Requests of `provider` to a server that answers with `handler`; `suffix` ends the base URL."""
    async with foreign_server(handler) as server, ProviderSessions() as sessions:
        connection = Connection("c", provider, server.url + suffix, Secret(KEY), timeout_s=timeout_s, options=options)
        yield open_http(sessions, connection), server


def words_of(provider: Provider) -> dict[str, RunStatus]:
    """The words of a provider that is a definition, in small letters, with their meaning."""
    assert isinstance(provider, DefinedProvider)
    status = provider.tables["status"]
    return {word.lower(): RunStatus(name) for name in STATUSES for word in status.get(name, ())}
