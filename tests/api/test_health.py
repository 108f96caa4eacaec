"""/metrics reads the database at the moment of a scrape; /v1/nodes lists who shares it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from bridge.domain.finding import Finding
from bridge.domain.run import RunStatus
from bridge.store import nodes, run_leases
from tests.support.api_bridge import Api, serve_api


async def gauges(api: Api) -> dict[str, float]:
    text = (await api.call("GET", "/metrics")).content.decode()
    return {
        name: float(value) for name, value in re.findall(r"^(runbridge_\S+(?:{[^}]*})?) (\S+)$", text, re.MULTILINE)
    }


async def test_the_age_of_the_oldest_due_delivery_grows_until_it_is_taken(api: Api) -> None:
    assert (await gauges(api))["runbridge_oldest_due_delivery_seconds"] == 0
    await api.create_endpoint()
    await api.finish((await api.register())["id"])
    api.clock.advance(90)
    assert (await gauges(api))["runbridge_oldest_due_delivery_seconds"] == 90
    api.clock.advance(10)
    assert (await gauges(api))["runbridge_oldest_due_delivery_seconds"] == 100


async def test_the_sizes_of_the_database_are_those_on_disk(sqlite_api: Api) -> None:
    path = sqlite_api.database.url.database
    assert path is not None
    told = await gauges(sqlite_api)
    with contextlib.closing(sqlite3.connect(path)) as file:
        page_bytes, free = (file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "freelist_count"))
    assert told["runbridge_database_bytes"] > 100_000
    assert told["runbridge_wal_bytes"] == Path(f"{path}-wal").stat().st_size
    assert told["runbridge_database_free_bytes"] == page_bytes * free


async def test_postgresql_shows_its_size_too(api: Api) -> None:
    assert (await gauges(api))["runbridge_database_bytes"] > 100_000


async def test_runs_and_deliveries_are_counted_by_what_they_are(sqlite_api: Api) -> None:
    await sqlite_api.create_endpoint()
    await sqlite_api.see((await sqlite_api.register("r-1"))["id"], RunStatus.RUNNING)
    await sqlite_api.register("r-2")
    told = await gauges(sqlite_api)
    assert told['runbridge_watched_runs{connection="dify-prod",status="running"}'] == 1
    assert told['runbridge_watched_runs{connection="dify-prod",status="queued"}'] == 1
    assert told['runbridge_kept_deliveries{state="pending"}'] == 1


async def test_each_connection_shows_how_contested_it_is(sqlite_api: Api) -> None:
    told = await gauges(sqlite_api)
    for name in ("dify-prod", "dify-test"):
        assert told[f'runbridge_connection_shadow_price_seconds{{connection="{name}"}}'] == 2
        assert told[f'runbridge_connection_over_capacity_ratio{{connection="{name}"}}'] == 2
        assert told[f'runbridge_connection_requests_per_second{{connection="{name}"}}'] == 10


async def test_what_was_learned_of_the_busiest_workflows_is_reported_by_name(sqlite_api: Api) -> None:
    told = await gauges(sqlite_api)
    assert told['runbridge_workflow_median_seconds{connection="dify-prod",workflow="wf"}'] == 30
    assert told['runbridge_workflow_polls_per_run{connection="dify-prod",workflow="wf"}'] == 3.5
    assert 'runbridge_workflow_mean_delay_seconds{connection="dify-prod",workflow="wf"}' not in told


async def test_the_nodes_are_listed_with_what_they_hold(api: Api) -> None:
    run = await api.register()
    (before,) = (await api.call("GET", "/v1/nodes")).body["data"]
    claim = {"connection": run["connection"], "until": api.clock.now(), "limit": 10}
    await api.database.write(lambda tx: run_leases.acquire_due(tx, node=before["id"], **claim))
    (node,) = (await api.call("GET", "/v1/nodes")).body["data"]
    assert (before["runs"], node["runs"], node["deliveries"]) == (0, 1, 0)
    assert node["alive"] is True
    assert (node["lease_expires_at"] is None) == api.database.is_sqlite


async def test_a_node_that_is_not_seen_is_shown_as_dead(postgresql_url: str) -> None:
    async with serve_api(postgresql_url) as api:
        (node,) = (await api.call("GET", "/v1/nodes")).body["data"]
        await api.database.write(lambda tx: nodes.renew(tx, node["id"], lease_s=-1))
        (node,) = (await api.call("GET", "/v1/nodes")).body["data"]
        assert node["alive"] is False


async def test_settings_in_effect_and_what_doctor_finds_are_shown(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [Finding(True, "SQLite", "3.51"), Finding(None, "disk", "low"), Finding(False, "readiness", "no")]
    monkeypatch.setattr(sqlite_api.bridge, "findings", lambda: findings)
    shown = (await sqlite_api.call("GET", "/v1/configuration")).body["data"]
    assert shown[0] == {"key": "server.api_token", "value": "****", "origin": "env:X"}
    found = (await sqlite_api.call("GET", "/v1/doctor")).body["data"]
    assert [one["result"] for one in found[:3]] == ["ok", "remark", "wrong"]
