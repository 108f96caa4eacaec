"""Series by endpoint, by connection and by route: bounded, and there before the first failure."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest

from bridge.runtime import metrics
from bridge.runtime.metrics import Metrics
from tests.api.test_health import gauges
from tests.support.api_bridge import Api


async def test_each_endpoint_has_its_series_and_webhooks_of_single_runs_share_one(sqlite_api: Api) -> None:
    api = sqlite_api
    endpoint = (await api.create_endpoint())["id"]
    run = await api.register(webhook={"url": "https://one.example.org/"})
    await api.finish(run["id"])
    api.clock.advance(90)
    values = await gauges(api)
    assert values[f'runbridge_endpoint_enabled{{endpoint="{endpoint}"}}'] == 1
    assert values[f'runbridge_endpoint_failing{{endpoint="{endpoint}"}}'] == 0
    for label in (endpoint, "one-run"):
        assert values[f'runbridge_endpoint_oldest_due_seconds{{endpoint="{label}"}}'] == 90
    assert ("expect_endpoints", [endpoint]) in api.bridge.asked


async def test_the_gauges_of_a_connection_are_there_before_its_first_answer(sqlite_api: Api) -> None:
    values = await gauges(sqlite_api)
    assert values['runbridge_connection_failing{connection="dify-test"}'] == 0
    assert values['runbridge_watched_runs{connection="dify-test",status="waiting"}'] == 0
    assert values['runbridge_kept_deliveries{state="exhausted"}'] == 0


async def test_a_database_that_cannot_be_read_does_not_take_the_metrics_with_it(sqlite_api: Api) -> None:
    """They are what is looked at then."""
    file = Path(str(sqlite_api.database.url.database))
    for path in (file, file.with_name(f"{file.name}-wal")):
        with path.open("r+b") as pages:
            pages.seek(4096)
            pages.write(b"\xa5" * (path.stat().st_size - 4096))
    sqlite_api.bridge.ready = False
    assert (await sqlite_api.call("GET", "/v1/runs")).status == 503
    values = await gauges(sqlite_api)
    assert values['runbridge_ready{check="database"}'] == 0
    assert values['runbridge_api_responses_total{method="GET",route="/v1/runs",status="503"}'] == 1


async def test_requests_are_counted_by_route_and_never_by_address(sqlite_api: Api) -> None:
    for path in ("/v1/runs/a", "/v1/runs/b", "/nowhere/a", "/nowhere/b"):
        await sqlite_api.call("GET", path)
    values = await gauges(sqlite_api)
    assert values['runbridge_api_responses_total{method="GET",route="/v1/runs/{id}",status="404"}'] == 2
    assert values['runbridge_api_duration_seconds_count{method="GET",route="none"}'] == 2


def test_series_of_endpoints_begin_at_zero_and_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(metrics, "ENDPOINTS_MAX", 2)
    counted = Metrics()
    counted.expect_endpoints(["a", "b"])
    for name in ("b", "c", "d", None):
        counted.note_attempt(name, "connect", 0.1, is_delivered=False)
    text = generate_latest(counted.registry).decode()
    for label, count in (("a", 0), ("b", 1), ("other", 2), ("one-run", 1)):
        assert f'runbridge_endpoint_attempts_total{{endpoint="{label}",result="failed"}} {count}.0\n' in text
        failures = f'runbridge_endpoint_failures_total{{endpoint="{label}",outcome="connect"}} {count}.0\n'
        assert (failures in text) is (count > 0)  # why, by endpoint; a series begins with its first failure


async def test_the_lag_of_the_loop_is_sampled() -> None:
    counted = Metrics()
    await counted.measure_lag()
    assert "runbridge_loop_lag_seconds_count 1.0" in generate_latest(counted.registry).decode()
