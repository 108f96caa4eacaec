"""Build the HTTP application and open its socket."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from bridge.api.authentication import Authentication, DashboardRules, Rules, WrongTries
from bridge.api.connection_cap import CappedRunner, ConnectionCap
from bridge.api.context import RequestContext
from bridge.api.openapi import build_document
from bridge.api.ports import Bridge
from bridge.api.routes import ROUTES
from bridge.api.serving import (
    LINE_BYTES_MAX,
    RequestMetrics,
    add_headers,
    build_handler,
    build_middleware,
    refuse_malformed,
)
from bridge.domain.api_token import ApiToken, Scope
from bridge.domain.clock import Clock
from bridge.domain.errors import BridgeError
from bridge.domain.event import encode
from bridge.domain.secret import Secret
from bridge.store.database import Database

KEEPALIVE_S = 30  # aiohttp's default is an hour, and it also bounds the wait for a request's headers
SHUTDOWN_S = 5.0  # long responses end by themselves when the server closes; this is for the others
SOCKET_MODE = 0o660
BACKLOG_MAX = 128
RULES = web.AppKey("rules", Rules)  # what a reload may change
CAP = web.AppKey("cap", ConnectionCap)
_wire_log = logging.getLogger("bridge.api.wire")
# aiohttp logs malformed HTTP with a traceback and the bytes, token included; the client gets a 400, the log nothing.
_wire_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class CannotListen(BridgeError):
    """The API cannot listen on its address."""


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
    connections_max: int = 10_000,
    tokens: Sequence[ApiToken] = (),
    dashboard: DashboardRules | None = None,
) -> web.Application:
    """The application, ready to be served by `start_server`.

    `allowed_hosts`: names and addresses without port, lower case, IPv6 in brackets. `registry`: the
    workers' metrics, shown at /metrics beside what the database holds. `connections_max`: see ConnectionCap.
    """
    registry = registry or CollectorRegistry()
    rules = Rules((main_token(api_token), *tokens), allowed_hosts, body_bytes_max, dashboard or DashboardRules())
    wrong_tries = WrongTries(clock, registry)
    authentication = Authentication(rules, database, wrong_tries)
    context = RequestContext(
        database,
        clock,
        bridge,
        version,
        registry,
        rules,
        authentication,
        wrong_tries,
        openapi=functools.cache(lambda: encode(build_document(version))),
    )
    open_routes = frozenset((route.method, route.path) for route in ROUTES if route.is_open)
    scopes = {(route.method, route.path): route.scope for route in ROUTES if route.method != "GET"}
    cap = ConnectionCap(connections_max, refuse_malformed)
    metrics = RequestMetrics(registry)
    app = web.Application(middlewares=[build_middleware(rules, authentication, open_routes, scopes, cap.busy, metrics)])
    app[RULES], app[CAP] = rules, cap
    _add_routes(app, context, rules)
    app.on_response_prepare.append(add_headers)
    _add_signals(app, context)
    return app


def _add_signals(app: web.Application, context: RequestContext) -> None:
    async def close(_app: web.Application) -> None:
        context.closing.set()

    async def count(_app: web.Application) -> None:
        context.counts.begin()  # so that the first reader does not wait for it

    app.on_startup.append(count)
    app.on_shutdown.append(close)
    app.on_cleanup.append(lambda _: context.counts.close())


def _add_routes(app: web.Application, context: RequestContext, rules: Rules) -> None:
    for route in ROUTES:
        handler = build_handler(context, route, rules)
        if route.method == "GET":
            app.router.add_get(route.path, handler, allow_head=route.content_type != "text/event-stream")
        else:
            app.router.add_route(route.method, route.path, handler)


def main_token(api_token: Secret) -> ApiToken:
    """[server] api_token, which may do everything."""
    return ApiToken("api_token", api_token, Scope.ADMIN)


async def start_server(app: web.Application, listen: str) -> tuple[web.AppRunner, str]:
    """Serve on `host:port`, `[v6]:port` or `unix:/path`. Returns the runner, to be cleaned up, and the bound address.

    Raises CannotListen if that fails.
    """
    try:
        return await _start_on(app, listen)
    except OSError as error:
        raise CannotListen(f"cannot listen on {listen}: {_why_not(error)}") from error


async def _start_on(app: web.Application, listen: str) -> tuple[web.AppRunner, str]:
    backlog = min(BACKLOG_MAX, max(1, app[CAP].connections_max // 4))  # asyncio takes as many before any is served
    runner = CappedRunner(
        app,
        app[CAP],
        protocol={
            "access_log": None,
            "logger": _wire_log,
            "keepalive_timeout": KEEPALIVE_S,
            "auto_decompress": False,
            "max_line_size": LINE_BYTES_MAX,
        },
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
    )
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        listener = _open_unix(path)  # opened before the runner, whose clean-up removes the file
        app.on_cleanup.append(lambda _: _unlink(path))
        await _start(runner, lambda: web.SockSite(runner, listener, backlog=backlog))
        return runner, listen
    host, _, port = listen.rpartition(":")
    await _start(runner, lambda: web.TCPSite(runner, host.strip("[]"), int(port), backlog=backlog))
    bound = runner.addresses[0]
    return runner, f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"


async def _start(runner: web.AppRunner, make_site: Callable[[], web.BaseSite]) -> None:
    await runner.setup()
    try:
        await make_site().start()
    except BaseException:
        await runner.cleanup()
        raise


def _open_unix(path: Path) -> socket.socket:
    """A listening socket, readable for owner and group; replaces one that a dead process left behind."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        if _is_alive(path):
            raise OSError(errno.EADDRINUSE, f"another process listens at {path}")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~SOCKET_MODE)  # the socket must never be open wider than this
    try:
        listener.bind(str(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        with contextlib.suppress(OSError):
            probe.connect(str(path))
            return True
    return False


async def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _why_not(error: OSError) -> str:
    """Why listening failed, with the remedy; asyncio gives no errno if no address could be bound."""
    if isinstance(error, socket.gaierror):
        return "the name of the host is not known here; write an address"
    match error.errno:
        case errno.EADDRINUSE:
            return "address already in use; is another daemon there?"
        case errno.EADDRNOTAVAIL | None:
            return "the address is not one of this machine's; name one that is, or 0.0.0.0 for all of them"
        case errno.ENOENT | errno.ENOTDIR:
            return "the folder of the socket does not exist; make it, or name another"
        case errno.EACCES | errno.EPERM:
            return "this user may not; choose a port above 1023, or a folder that it can write in"
        case number:
            return os.strerror(number)
