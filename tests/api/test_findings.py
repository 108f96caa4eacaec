"""`GET /v1/doctor`: each part of the daemon, each connection and each endpoint by name, with what to do."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from bridge.api import counts
from bridge.api.ports import FailingRun
from bridge.domain.connection import ConnectionHealth
from bridge.domain.encryption import new_key, parse_keys
from bridge.domain.failure import FailureKind, LastError
from bridge.store import endpoint_health, nodes
from bridge.store.connections import change_health
from bridge.store.tables import endpoint_secrets
from tests.support.api_bridge import NOW, Api, serve_api
from tests.support.attempts import failed_attempt

Found = dict[str, list[tuple[str, str]]]


@pytest.fixture(autouse=True)
def is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every count is waited for, however busy this machine is."""
    monkeypatch.setattr(counts, "AWAITED_S", 60.0)


async def find(api: Api) -> Found:
    """What doctor says, by the name of the check."""
    found: Found = {}
    for each in (await api.call("GET", "/v1/doctor")).body["data"]:
        found.setdefault(each["check"], []).append((each["result"], each["detail"]))
    return found


async def test_every_connection_is_named_with_what_it_lacks(api: Api) -> None:
    failing, reason = ConnectionHealth.FAILING, "HTTP 401: the key was refused"
    await api.database.write(lambda tx: change_health(tx, "dify-prod", provider="dify", health=failing, reason=reason))
    found = await find(api)
    assert found["connection dify-prod"][0][0] == "wrong"
    assert reason in found["connection dify-prod"][0][1]
    over_capacity, never = found["connection dify-test"]
    assert "2.0 times the requests" in over_capacity[1]
    assert never[0] == "remark"
    assert "never answered" in never[1]
    assert "runbridge connections check dify-test" in never[1]


async def test_an_endpoint_that_is_off_or_accepts_nothing_is_wrong_and_the_others_are_named_too(api: Api) -> None:
    off, fails, good = [(await api.create_endpoint())["id"] for _ in range(3)]
    await api.call("POST", f"/v1/endpoints/{off}/disable")
    await api.database.write(lambda tx: endpoint_health.apply_result(tx, fails, failed_attempt()))
    found = await find(api)
    ((result, detail),) = found[f"endpoint {off}"]
    assert (result, f"runbridge endpoints enable {off}" in detail) == ("wrong", True)
    ((result, detail),) = found[f"endpoint {fails}"]
    assert (result, "accepted nothing since" in detail) == ("wrong", True)
    assert found[f"endpoint {good}"] == [("ok", "enabled, 1 deliveries pending")]  # that the first was disabled


async def test_deliveries_that_are_due_for_long_are_a_remark_at_their_endpoint(api: Api) -> None:
    endpoint = await api.create_endpoint()
    run = await api.register()
    await api.finish(run["id"])
    api.clock.advance(120)
    ((result, detail),) = (await find(api))[f"endpoint {endpoint['id']}"]
    assert (result, "have been due for 2m" in detail) == ("remark", True)


async def test_an_endpoint_whose_filter_fails_is_wrong(sqlite_api: Api) -> None:
    api = sqlite_api
    endpoint = await api.create_endpoint(filter="abs(data.run.metadata.n) > `1`")
    run = await api.register(metadata={"n": "text"})
    await api.finish(run["id"])
    ((result, detail),) = (await find(api))[f"endpoint {endpoint['id']}"]
    assert (result, "filter failed on" in detail) == ("wrong", True)


async def test_runs_that_could_not_be_read_are_grouped_by_their_trouble(sqlite_api: Api) -> None:
    error = LastError(NOW, FailureKind.REJECTED, "HTTP 400: no such app", 3)
    sqlite_api.bridge.failing = [FailingRun(f"run_{n}", "dify-prod", error) for n in range(2)]
    found = await find(sqlite_api)
    assert found["runs of dify-prod"] == [
        ("remark", "2 could not be read: HTTP 400: no such app (3 times in a row at run_0)")
    ]
    assert "runs" not in found


async def test_secrets_that_no_key_opens_are_named(api: Api) -> None:
    await api.create_endpoint()
    assert (await find(api))["secrets"][0][0] == "ok"
    api.database.keyring.use(parse_keys(new_key()))
    await api.create_endpoint()
    api.database.keyring.use(parse_keys(new_key()))
    await api.create_endpoint()
    stored = await api.database.read(lambda tx: tx.connection.execute(sa.select(endpoint_secrets)).all())
    ((result, detail),) = (await find(api))["secrets"]
    lost = {row.id for row in stored if row.id in detail}
    assert (result, len(lost)) == ("wrong", 1), "not the one without a key, nor that under the present one"


async def test_a_node_that_is_not_heard_of_is_a_remark(postgresql_url: str) -> None:
    async with serve_api(postgresql_url) as api:
        await api.database.write(lambda tx: nodes.join(tx, node="dead", host="there", pid=2, version="0", lease_s=-1))
        found = await find(api)
        assert found["node n"][0][0] == "ok"
        assert "its lease has run out" in found["node dead"][0][1]


async def test_the_channels_of_alerts_are_tried_on_request(sqlite_api: Api) -> None:
    answer = await sqlite_api.call("POST", "/v1/alerts/test", {"channels": ["phone", "team"]})
    assert answer.body["data"] == [
        {"channel": "phone", "kind": "ntfy", "ok": True, "detail": "the message was taken"},
        {"channel": "team", "kind": "slack", "ok": False, "detail": "no answer"},
    ]
    assert ("send_test_alerts", ["phone", "team"]) in sqlite_api.bridge.asked
