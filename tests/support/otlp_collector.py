"""A collector that takes spans by OTLP over HTTP, decodes them with the official messages, and can be slow or refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.sandbox.http_server import HttpServer


class OtlpCollector(HttpServer):
    """Listens on loopback. While `holds` is set, requests arrive and get no answer; `status` is that of the answers."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.holds = False

    def application(self) -> web.Application:
        """Takes traces alone."""
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/traces", self._take)
        return app

    def named(self, name: str) -> list[Span]:
        """The spans of this name so far."""
        return [span for span in self.spans if span.name == name]

    async def wait_for(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Until `holds` says so; TimeoutError otherwise."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                await asyncio.sleep(0.02)

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((dict(request.headers), body))
        if self.holds:
            await asyncio.Event().wait()
        if self.status == 200:
            message = ExportTraceServiceRequest.FromString(body)
            for resource in message.resource_spans:
                self.resources.append(attributes(resource.resource.attributes))
                self.spans += (span for scope in resource.scope_spans for span in scope.spans)
        return web.Response(status=self.status)


def attributes(given: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {each.key: _value(each) for each in given}


def _value(one: KeyValue) -> Any:
    return getattr(one.value, one.value.WhichOneof("value") or "string_value")
