"""The daemon itself: liveness, readiness, nodes, settings, findings, the OpenAPI document."""

from __future__ import annotations

import asyncio

from bridge.api.context import Request, RequestContext, Response, etag_of
from bridge.api.dashboard_response_models import (
    AlertTest,
    AlertTestItem,
    FindingAnswer,
    FindingList,
    SettingAnswer,
    SettingList,
)
from bridge.api.findings import find_all
from bridge.api.problem import errors_page
from bridge.api.request_models import AlertTestBody, NoQuery
from bridge.api.response_models import LivenessAnswer, NodeAnswer, NodeList, ReadinessAnswer
from bridge.store import nodes


async def show_liveness(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Say that the process answers."""
    return Response.of(200, LivenessAnswer(status="ok", version=context.version))


async def show_readiness(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Say whether the daemon can work, check by check."""
    checks = {name: bool(good) for name, good in context.bridge.readiness().items()}
    ready = all(checks.values()) and not context.closing.is_set()
    return Response.of(200 if ready else 503, ReadinessAnswer(status="ready" if ready else "not ready", checks=checks))


async def list_nodes(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """List the nodes, the longest running first; one that is not alive is about to be evicted."""
    shown = [NodeAnswer.model_validate(node) for node in await context.database.read(nodes.list_nodes)]
    for node in shown if context.database.is_sqlite else ():
        node.lease_expires_at = None
    return Response.of(200, NodeList(data=shown, next_cursor=None))


async def show_configuration(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """List every setting in effect and where it comes from; secrets are masked."""
    shown = [SettingAnswer.model_validate(each) for each in context.bridge.settings]
    return Response.of(200, SettingList(data=shown, next_cursor=None))


async def show_findings(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """List what `runbridge doctor` finds from inside the daemon; asks no provider."""
    shown = [FindingAnswer.model_validate(each) for each in await find_all(context)]
    return Response.of(200, FindingList(data=shown, next_cursor=None))


async def check_alerts(context: RequestContext, request: Request[AlertTestBody]) -> Response:
    """Send a test message by the channels of `[alerts]` and answer with each result."""
    tried = await context.bridge.send_test_alerts(request.data.channels)
    shown = [AlertTestItem.model_validate(one) for one in tried]
    return Response.of(200, AlertTest(data=shown))


async def show_openapi(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Show this document: the API as OpenAPI 3.1."""
    body = await asyncio.to_thread(context.openapi)
    return Response(200, body, headers={"ETag": etag_of(body)})


async def show_errors(_context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Explain every kind of error, each under the address that `type` names."""
    body = errors_page()
    return Response(200, body, "text/html; charset=utf-8", {"ETag": etag_of(body)})
