"""Builds the HTTP server."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry

from bridge.api.ports import Bridge
from bridge.domain.clock import Clock
from bridge.domain.secret import Secret
from bridge.store.database import Database


def build_app(
    *,
    database: Database,
    clock: Clock,
    bridge: Bridge,
    api_token: Secret,
    allowed_hosts: frozenset[str],
    body_bytes_max: int,
    version: str,
    registry: CollectorRegistry | None = None,
) -> web.Application:
    """The application, ready to be served by `start_server`."""
    raise NotImplementedError


async def start_server(app: web.Application, listen: str) -> tuple[web.AppRunner, str]:
    """Serve on `host:port`, `[v6]:port` or `unix:/path`; the runner (to be cleaned up) and the bound address."""
    raise NotImplementedError
