"""`GET /metrics`: what the workers count, and what the database holds at the moment of the scrape.

Labels are the names of configured connections and of shared endpoints; the webhooks of single runs stand together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from bridge.api.context import Request, RequestContext, Response
from bridge.api.ports import Bridge
from bridge.api.request_models import NoQuery
from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import StoreUnavailable
from bridge.domain.run import RunStatus
from bridge.store.connections import list_health
from bridge.store.deliveries import count_by_state, due_endpoints
from bridge.store.endpoints import list_endpoints
from bridge.store.inspection import measure_size
from bridge.store.runs import count_active
from bridge.store.summary import Counts
from bridge.store.transaction import Tx

ENDPOINTS_MAX: Final = 500  # with series of their own
ONE_RUN: Final = "one-run"


async def show_metrics(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """Show the metrics for Prometheus."""
    try:
        counts, _ = await context.counts.read()
        shared, counted = await context.database.read(lambda tx: _count(tx, context.bridge.connections, counts))
    except StoreUnavailable:  # what is counted in memory is needed all the more
        shared, counted = [], CollectorRegistry()
    ready = Gauge("runbridge_ready", "1 while this check of /readyz is in order", ["check"], registry=counted)
    for check, is_good in context.bridge.readiness().items():
        ready.labels(check).set(is_good)
    context.bridge.expect_endpoints(endpoint.id for endpoint in shared)
    _read_filter_errors(counted, context.bridge, shared)
    _read_limiters(counted, context.bridge)
    text = generate_latest(context.registry) + generate_latest(counted)
    return Response(200, text, content_type=CONTENT_TYPE_LATEST)


def _count(tx: Tx, connections: Iterable[str], counts: Counts) -> tuple[list[Endpoint], CollectorRegistry]:
    registry = CollectorRegistry()
    shared = list_endpoints(tx, limit=ENDPOINTS_MAX)
    watched = Gauge("runbridge_watched_runs", "Runs being watched", ["connection", "status"], registry=registry)
    none = {(name, status.value): 0 for name in connections for status in RunStatus if not status.is_settled}
    for (connection, status), count in {**none, **count_active(tx)}.items():
        watched.labels(connection, status).set(count)
    kept = Gauge("runbridge_kept_deliveries", "Deliveries in the database", ["state"], registry=registry)
    by_state = count_by_state(tx)
    for state in DeliveryState:
        kept.labels(state.value).set(by_state.get(state.value, 0))
    due = due_endpoints(tx)
    oldest_at = min((each.at for each in due.values()), default=tx.now)
    _set(registry, "runbridge_oldest_due_delivery_seconds", "How long it has been due", _since(oldest_at, tx.now))
    size = measure_size(tx)
    _set(registry, "runbridge_database_bytes", "The database on disk", size.total)
    _set(registry, "runbridge_database_free_bytes", "Of it, what holds nothing (SQLite)", size.free)
    _set(registry, "runbridge_wal_bytes", "The write-ahead log beside it (SQLite)", size.wal)
    if size.disk_free is not None:
        _set(registry, "runbridge_disk_free_bytes", "Room on the disk of the database (SQLite)", size.disk_free)
    answering = Gauge("runbridge_connection_ok", "1 while the account answers", ["connection"], registry=registry)
    failing = _by_connection(registry, "failing", "1 while it brings nothing readable, 0 also before its first answer")
    health = list_health(tx)
    for name, row in health.items():
        answering.labels(name).set(row.health is ConnectionHealth.OK)
    for name in connections:
        failing.labels(name).set(name in health and health[name].health is ConnectionHealth.FAILING)
    since: dict[str, datetime] = {}
    for each in due.values():
        label = ONE_RUN if each.source is EndpointSource.RUN else each.endpoint_id
        since[label] = min(each.at, since.get(label, each.at))
    _read_endpoints(registry, shared, {name: _since(at, tx.now) for name, at in since.items()}, counts)
    return shared, registry


def _read_endpoints(
    registry: CollectorRegistry, shared: list[Endpoint], due_s: Mapping[str, float], counts: Counts
) -> None:
    enabled = _by_endpoint(registry, "enabled", "0 if it is switched off")
    failing = _by_endpoint(registry, "failing", "1 while every attempt since the last success has failed")
    oldest = _by_endpoint(registry, "oldest_due_seconds", "How long its oldest due delivery has been due")
    kept = Gauge(
        "runbridge_endpoint_kept_deliveries", "Its deliveries in the database", ["endpoint", "state"], registry=registry
    )
    for endpoint in shared:
        enabled.labels(endpoint.id).set(endpoint.enabled)
        failing.labels(endpoint.id).set(endpoint.failing_since is not None)
    for label, counted in ((ONE_RUN, ""), *((endpoint.id, endpoint.id) for endpoint in shared)):
        oldest.labels(label).set(due_s.get(label, 0.0))
        for state in DeliveryState:
            kept.labels(label, state.value).set(counts.deliveries.get((counted, state.value), 0))


def _read_filter_errors(registry: CollectorRegistry, bridge: Bridge, shared: list[Endpoint]) -> None:
    errors = Counter(
        "runbridge_endpoint_filter_errors_total", "Events on which its filter failed", ["endpoint"], registry=registry
    )
    for endpoint in shared:
        errors.labels(endpoint.id).inc(bridge.filter_errors(endpoint))


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
    rate = _by_connection(registry, "requests_per_second", "The limit in force, configured or learned")
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


def _by_endpoint(registry: CollectorRegistry, name: str, what: str) -> Gauge:
    return Gauge(f"runbridge_endpoint_{name}", what, ["endpoint"], registry=registry)


def _set(registry: CollectorRegistry, name: str, what: str, value: float) -> None:
    Gauge(name, what, registry=registry).set(value)


def _since(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())
