"""The daemon itself: liveness, readiness, nodes, metrics, the OpenAPI document."""

from __future__ import annotations

import asyncio
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from bridge.api.context import Request, RequestContext, Response
from bridge.api.dashboard_response_models import FindingAnswer, FindingList, SettingAnswer, SettingList
from bridge.api.findings import find_all
from bridge.api.ports import Bridge
from bridge.api.request_models import NoQuery
from bridge.api.response_models import LivenessAnswer, NodeAnswer, NodeList, ReadinessAnswer
from bridge.domain.connection import ConnectionHealth
from bridge.store import nodes
from bridge.store.connections import list_health
from bridge.store.deliveries import count_by_state, due_endpoints
from bridge.store.inspection import measure_size
from bridge.store.runs import count_active
from bridge.store.transaction import Tx


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


async def show_metrics(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Show the metrics for Prometheus."""
    counted = await context.database.read(_count)
    _read_limiters(counted, context.bridge)
    text = generate_latest(context.registry) + generate_latest(counted)
    return Response(200, text, content_type=CONTENT_TYPE_LATEST)


def _count(tx: Tx) -> CollectorRegistry:
    registry = CollectorRegistry()
    watched = Gauge("runbridge_watched_runs", "Runs being watched", ["connection", "status"], registry=registry)
    for (connection, status), count in count_active(tx).items():
        watched.labels(connection, status).set(count)
    kept = Gauge("runbridge_kept_deliveries", "Deliveries in the database", ["state"], registry=registry)
    for state, count in count_by_state(tx).items():
        kept.labels(state).set(count)
    oldest_at = min((due.at for due in due_endpoints(tx).values()), default=tx.now)
    _set(registry, "runbridge_oldest_due_delivery_seconds", "How long it has been due", _since(oldest_at, tx.now))
    size = measure_size(tx)
    _set(registry, "runbridge_database_bytes", "The database on disk", size.total)
    _set(registry, "runbridge_database_free_bytes", "Of it, what holds nothing (SQLite)", size.free)
    _set(registry, "runbridge_wal_bytes", "The write-ahead log beside it (SQLite)", size.wal)
    answering = Gauge("runbridge_connection_ok", "1 while the account answers", ["connection"], registry=registry)
    for name, row in list_health(tx).items():
        answering.labels(name).set(row.health is ConnectionHealth.OK)
    return registry


_OF_WORKFLOWS = {
    "median_seconds": "Half of its runs take no longer, as learned",
    "p90_seconds": "Nine of ten of its runs take no longer, as learned",
    "polls_per_run": "Polls of a run of it, on average, its sightings in lists apart",
    "mean_delay_seconds": "How late its ends are noticed, on average, as expected",
}
WORKFLOWS_MAX = 50  # of each connection: workflow names come from outside, so their number must be bounded


def _read_limiters(registry: CollectorRegistry, bridge: Bridge) -> None:
    shadow = _by_connection(registry, "shadow_price_seconds", "The delay that one request was worth lately")
    over = _by_connection(registry, "over_capacity_ratio", "Requests wanted over requests allowed, at least 1")
    rate = _by_connection(registry, "requests_per_second", "The limit in force, told or learned")
    for name in bridge.connections:
        reading = bridge.limiter_reading(name)
        shadow.labels(name).set(reading.shadow_price_s)
        over.labels(name).set(reading.over_capacity)
        rate.labels(name).set(reading.requests_per_second)
    for field, what in _OF_WORKFLOWS.items():
        gauge = Gauge(f"runbridge_workflow_{field}", what, ["connection", "workflow"], registry=registry)
        for name in bridge.connections:
            for workflow in bridge.busiest_workflows(name, WORKFLOWS_MAX):
                if (value := workflow[field.replace("seconds", "s")]) is not None:
                    gauge.labels(name, workflow["workflow_id"] or "").set(float(str(value)))


def _by_connection(registry: CollectorRegistry, name: str, what: str) -> Gauge:
    return Gauge(f"runbridge_connection_{name}", what, ["connection"], registry=registry)


def _set(registry: CollectorRegistry, name: str, what: str, value: float) -> None:
    Gauge(name, what, registry=registry).set(value)


def _since(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())


async def show_openapi(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Show this document: the API as OpenAPI 3.1."""
    return Response(200, await asyncio.to_thread(context.openapi))
