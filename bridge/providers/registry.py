"""The providers that come with runbridge by name, and the provider of a connection."""

from __future__ import annotations

from typing import Final

from bridge.definitions.files import built_in
from bridge.domain.connection import Connection
from bridge.providers.base import Provider
from bridge.providers.defined import DefinedProvider
from bridge.providers.dify import Dify
from bridge.providers.http import ProviderHttp, ProviderSessions, Route
from bridge.providers.retab import Retab

REGISTRY: Final[dict[str, Provider]] = {
    **{provider.name: provider for provider in (Retab(), Dify())},
    **{name: DefinedProvider(built_in(name)) for name in ("dibby", "instabase")},
}


def provider_of(connection: Connection) -> Provider:
    """The provider of a connection: made from its definition, or one of those in the registry."""
    if connection.definition is not None:
        return DefinedProvider(connection.definition, connection.options)
    return REGISTRY[connection.provider]


def open_http(sessions: ProviderSessions, connection: Connection, provider: Provider | None = None) -> ProviderHttp:
    """Requests with the address, headers, options and timeout of `connection`."""
    provider = provider or provider_of(connection)
    return ProviderHttp(
        sessions,
        provider.base_url(connection),
        {**connection.headers, **provider.headers(connection)},
        connection.timeout_s,
        options=connection.options,
        route=Route(connection.ca_file, connection.proxy),
        key=connection.api_key,
    )
