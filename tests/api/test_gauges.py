"""What /metrics tells of the database at the moment of a scrape."""

from __future__ import annotations

import re

from bridge.domain.run import RunStatus
from tests.support.api_bridge import Api


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


async def test_the_sizes_of_the_database_are_those_on_disk(door: Api) -> None:
    path = door.database.url.database
    assert path is not None
    told = await gauges(door)
    from pathlib import Path

    assert told["runbridge_database_bytes"] > 100_000
    assert told["runbridge_wal_bytes"] == Path(f"{path}-wal").stat().st_size
    assert told["runbridge_database_free_bytes"] == 0


async def test_postgresql_tells_its_size_too(api: Api) -> None:
    assert (await gauges(api))["runbridge_database_bytes"] > 100_000


async def test_runs_and_deliveries_are_counted_by_what_they_are(door: Api) -> None:
    await door.create_endpoint()
    await door.see((await door.register("r-1"))["id"], RunStatus.RUNNING)
    await door.register("r-2")
    told = await gauges(door)
    assert told['runbridge_watched_runs{connection="dify-prod",status="running"}'] == 1
    assert told['runbridge_watched_runs{connection="dify-prod",status="queued"}'] == 1
    assert told['runbridge_kept_deliveries{state="pending"}'] == 1


async def test_each_connection_tells_how_contested_it_is(door: Api) -> None:
    told = await gauges(door)
    for name in ("dify-prod", "dify-test"):
        assert told[f'runbridge_connection_shadow_price_seconds{{connection="{name}"}}'] == 2
        assert told[f'runbridge_connection_over_capacity_ratio{{connection="{name}"}}'] == 2
        assert told[f'runbridge_connection_requests_per_second{{connection="{name}"}}'] == 10


async def test_what_was_learned_of_the_busiest_workflows_is_told_by_name(door: Api) -> None:
    told = await gauges(door)
    assert told['runbridge_workflow_median_seconds{connection="dify-prod",workflow="wf"}'] == 30
    assert told['runbridge_workflow_polls_per_run{connection="dify-prod",workflow="wf"}'] == 3.5
    assert 'runbridge_workflow_mean_delay_seconds{connection="dify-prod",workflow="wf"}' not in told
