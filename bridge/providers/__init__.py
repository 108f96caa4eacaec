"""The provider APIs: fetch one run, say in our words what it is, start and cancel where that is possible.

One file per API and one line in the registry; never stores anything and never decides when to ask.
"""

from __future__ import annotations

from typing import Final

from bridge.domain.connection import Connection
from bridge.providers.base import Provider
from bridge.providers.dibby import Dibby
from bridge.providers.dify import Dify
from bridge.providers.http import ProviderHttp, ProviderSessions, Route
from bridge.providers.instabase import Instabase
from bridge.providers.retab import Retab

REGISTRY: Final[dict[str, Provider]] = {provider.name: provider for provider in (Dibby(), Retab(), Dify(), Instabase())}


def open_http(sessions: ProviderSessions, connection: Connection) -> ProviderHttp:
    """Requests with the address, headers, options and timeout of `connection`; its provider must be registered."""
    provider = REGISTRY[connection.provider]
    return ProviderHttp(
        sessions,
        provider.base_url(connection),
        {**connection.headers, **provider.headers(connection)},
        connection.timeout_s,
        options=connection.options,
        route=Route(connection.ca_file, connection.proxy),
    )
