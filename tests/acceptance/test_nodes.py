"""Several daemons on one PostgreSQL: one is killed, frozen or cut off, or the database goes away. Nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.sandbox import Reply, Scenario
from tests.support.cluster import Cluster, freeze, start_cluster, thaw
from tests.support.cuttable_proxy import CuttableProxy
from tests.support.postgres import Postgres
from tests.support.waiting import until

LEASE = "5s"
PATIENCE_S = 90.0  # the promise is 30 s, on a machine of its own
ENDLESS = Scenario(duration_s=None, outcome="succeeded")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL of this file's own, because one test takes it away."""
    with Postgres() as started:
        yield started


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    created = server.create_database()
    yield created
    server.drop_database(created)


def short_lives(count: int, longest_s: float, *, seed: int = 1) -> list[Scenario]:
    chance = random.Random(seed)
    return [
        Scenario(duration_s=chance.uniform(0.5, longest_s), outcome=("succeeded", "failed")[i % 2])
        for i in range(count)
    ]


async def held(cluster: Cluster, number: int, *, asked_at: int = 0) -> int:
    """The number of runs that a node holds, as shown by another one."""
    pid = cluster.nodes[number].pid
    nodes = (await cluster.nodes[asked_at].ask("GET", "/v1/nodes"))["data"]
    return sum(node["runs"] for node in nodes if node["pid"] == pid)


async def until_held(cluster: Cluster, number: int, *, asked_at: int = 0) -> None:
    await until(lambda: held(cluster, number, asked_at=asked_at))


async def test_the_work_of_a_killed_node_is_taken_over(url: str, tmp_path: Path) -> None:
    """At the default lease; both nodes worked before."""
    async with start_cluster(tmp_path, [url, url]) as cluster:
        survivor, victim = cluster.nodes
        await cluster.watch(victim, short_lives(80, 4.0))
        await until_held(cluster, 0)
        await until_held(cluster, 1)
        await cluster.receiver.wait_for(lambda got: len(got) >= 20, 60)
        await victim.kill()
        await cluster.all_finished(PATIENCE_S)
        evicted = await survivor.wait_for_log("node.buried")
        await cluster.judge(survivor)
        assert [node["id"] for node in (await survivor.ask("GET", "/v1/nodes"))["data"]] != [evicted["node"]]
        assert not victim.is_running


async def test_a_frozen_node_that_wakes_is_refused_and_starts_over(url: str, tmp_path: Path) -> None:
    async with start_cluster(tmp_path, [url, url], lease=LEASE) as cluster:
        steady, frozen = cluster.nodes
        cluster.receiver.always(Reply(204, delay_s=0.3))  # so that posts are under way at any moment
        await cluster.watch(frozen, short_lives(80, 3.0))
        await cluster.receiver.wait_for(lambda got: len(got) >= 20, 60)
        freeze(frozen)
        evicted = await steady.wait_for_log("node.buried")
        await cluster.all_finished(PATIENCE_S)
        thaw(frozen)
        await frozen.wait_for_log("node.started_over")
        assert evicted["node"] in {line["node"] for line in frozen.log_lines("node.lost")}
        await cluster.watch(frozen, short_lives(20, 1.0))
        await cluster.all_finished(PATIENCE_S)
        await cluster.judge(steady)
        assert await frozen.ask("GET", "/readyz")


async def test_a_node_cut_off_from_the_database_begins_nothing_more_before_its_lease_ends(
    server: Postgres, url: str, tmp_path: Path
) -> None:
    async with CuttableProxy(server.port) as cable:
        cut_url = url.replace(f":{server.port}/", f":{cable.port}/")
        async with start_cluster(tmp_path, [url, cut_url], lease=LEASE) as cluster:
            await check_a_node_that_is_cut_off(cluster, cable)


async def check_a_node_that_is_cut_off(cluster: Cluster, cable: CuttableProxy) -> None:
    steady, lonely = cluster.nodes
    async with CuttableProxy(int(cluster.sandbox.origin.rsplit(":", 1)[1])) as window:
        for table in lonely.config["connections"].values():
            table["base_url"] = table["base_url"].replace(cluster.sandbox.origin, f"http://127.0.0.1:{window.port}")
        await lonely.reload()
        await cluster.watch(lonely, short_lives(60, 12.0))
        await until_held(cluster, 1)
        cable.cut()
        await lonely.wait_for_log("node.fenced")
        for _ in range(2):  # requests sent before the lease was lost have arrived when these are answered
            status, _, _ = await lonely.call("GET", "/readyz")
            assert status == 503
        asked = window.asked
        await steady.wait_for_log("node.buried")
        assert window.asked == asked
        await cluster.all_finished(PATIENCE_S)
        cable.mend()
        await lonely.wait_for_log("node.started_over")
        await cluster.watch(lonely, short_lives(20, 1.0))
        await cluster.all_finished(PATIENCE_S)
        await cluster.judge(steady)


async def test_all_nodes_survive_a_restart_of_the_database(server: Postgres, url: str, tmp_path: Path) -> None:
    async with start_cluster(tmp_path, [url, url, url], lease=LEASE) as cluster:
        pids = [node.pid for node in cluster.nodes]
        await cluster.watch(cluster.nodes[0], short_lives(90, 6.0))
        await cluster.receiver.wait_for(lambda got: len(got) >= 20, 60)
        server.kill()
        await cluster.nodes[0].wait_for_log("store.unavailable")
        server.restart()
        await cluster.all_finished(PATIENCE_S)
        await cluster.judge(cluster.nodes[0])
        assert [node.pid for node in cluster.nodes if node.is_running] == pids


async def test_limits_are_shared_and_a_node_that_leaves_hands_over_at_once(url: str, tmp_path: Path) -> None:
    async with start_cluster(tmp_path, [url, url], lease=LEASE) as cluster:
        first, second = cluster.nodes
        shares = [(await node.ask("GET", "/v1/connections"))["data"][0]["state"] for node in cluster.nodes]
        assert [share["requests_per_second"] for share in shares] == [100, 100]
        assert [share["max_in_flight"] for share in shares] == [8, 8]
        (endless,) = await cluster.watch(first, [ENDLESS])
        await cluster.watch(first, short_lives(40, 3.0))
        await second.stop()
        await cluster.receiver.wait_for(lambda got: len(cluster.finished(got)) == 40, 60)
        listed = (await first.ask("GET", "/v1/nodes"))["data"]
        assert [node["pid"] for node in listed] == [first.pid]
        state = await first.eventually(
            "/v1/connections", lambda a: a["data"][0]["state"]["limits_shared_by_nodes"] == 1
        )
        assert state["data"][0]["state"]["requests_per_second"] == 200
        await first.ask("DELETE", f"/v1/runs/{endless}", status=204)


async def test_each_node_answers_for_the_runs_of_all(url: str, tmp_path: Path) -> None:
    """Waiting, streaming, polling now and deleting do not depend on which node holds the run."""
    async with start_cluster(tmp_path, [url, url], lease=LEASE) as cluster:
        first, second = cluster.nodes
        async with second.stream() as messages:
            (run_id,) = await cluster.watch(first, [Scenario(duration_s=0.5, outcome="succeeded")])
            assert (await second.finish_of(run_id))["status"] == "succeeded"
            assert (await first.finish_of(run_id))["status"] == "succeeded"
            async with asyncio.timeout(60):
                assert run_id in (await anext(messages))["data"]
        for node in cluster.nodes:
            for connection in node.config["connections"].values():
                connection |= {"min_interval": "20s", "max_interval": "20s"}
            await node.reload()
        (run_id,) = await cluster.watch(first, [ENDLESS])
        await first.eventually(f"/v1/runs/{run_id}", lambda run: run["status"] == "running")
        before = len(cluster.sandbox.requests)
        await asyncio.gather(*(node.ask("POST", f"/v1/runs/{run_id}/poll", status=202) for node in cluster.nodes))
        await until(lambda: len(cluster.sandbox.requests) > before)


async def test_a_node_survives_the_migration_of_the_next_version(server: Postgres, url: str, tmp_path: Path) -> None:
    """Migrations only add; so the old version works on while the new one starts, and cannot be started again after it."""
    async with start_cluster(tmp_path, [url, url], lease=LEASE) as cluster:
        old, leaving = cluster.nodes
        await cluster.watch(old, short_lives(40, 3.0))
        name = url.rsplit("/", 1)[1]
        for table in ("runs", "events", "deliveries", "endpoints", "nodes"):
            server.execute(f"ALTER TABLE {table} ADD COLUMN of_the_next_version text", name)
        server.execute("UPDATE runbridge_schema_version SET version_num = '9999'", name)
        await cluster.watch(leaving, short_lives(20, 1.0))
        await cluster.all_finished(PATIENCE_S)
        await cluster.judge(old)
        await leaving.stop()
        code, said = await leaving.run_to_end()
        assert code == 1
        assert "9999" in said
