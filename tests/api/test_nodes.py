"""GET /v1/nodes."""

from __future__ import annotations

from bridge.store import nodes, run_leases
from tests.support.api_bridge import Api, serve_api


async def test_the_nodes_are_listed_with_what_they_hold(api: Api) -> None:
    run = await api.register()
    (before,) = (await api.call("GET", "/v1/nodes")).body["data"]
    claim = {"connection": run["connection"], "until": api.clock.now(), "limit": 10}
    await api.database.write(lambda tx: run_leases.acquire_due(tx, node=before["id"], **claim))
    (node,) = (await api.call("GET", "/v1/nodes")).body["data"]
    assert (before["runs"], node["runs"], node["deliveries"]) == (0, 1, 0)
    assert node["alive"] is True
    assert (node["lease_expires_at"] is None) == api.database.is_sqlite


async def test_a_node_that_is_not_heard_of_is_shown_as_dead(postgresql_url: str) -> None:
    async with serve_api(postgresql_url) as api:
        (node,) = (await api.call("GET", "/v1/nodes")).body["data"]
        await api.database.write(lambda tx: nodes.renew(tx, node["id"], lease_s=-1))
        (node,) = (await api.call("GET", "/v1/nodes")).body["data"]
        assert node["alive"] is False
