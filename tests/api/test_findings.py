"""`GET /v1/doctor`: each part of the daemon, each connection and each endpoint by name, with what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa

from bridge.api import counts
from bridge.api.findings import FAILING_RUNS_MAX
from bridge.api.ports import LivePoll
from bridge.domain.connection import ConnectionHealth
from bridge.domain.encryption import new_key, parse_keys
from bridge.domain.failure import FailureKind, LastError
from bridge.store import endpoint_health, nodes, run_leases
from bridge.store.connections import change_health
from bridge.store.run_leases import PollRecord
from bridge.store.tables import endpoint_secrets
from tests.support.api_bridge import NODE, NOW, Api, serve_api
from tests.support.attempts import failed_attempt

Found = dict[str, list[tuple[str, str]]]


@pytest.fixture(autouse=True)
def is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every count is waited for, however busy this machine is."""
    monkeypatch.setattr(counts, "AWAITED_S", 60.0)


async def find(api: Api) -> Found:
    """The findings of `doctor`, by the name of the check."""
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
    assert "no poll has been answered yet" in never[1]
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
    (good_one,) = found[f"endpoint {good}"]  # it is owed the event that the first was disabled
    assert good_one == ("ok", "enabled, 1 deliveries pending; nothing was sent to it in the last day")


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


ERROR = LastError(NOW, FailureKind.REJECTED, "HTTP 400: no such app", 3)


async def fail_polls(api: Api, run_ids: Sequence[str], error: LastError) -> None:
    """The polls of these runs have failed, and no node holds them now, as after a restart."""
    records = [PollRecord(run_id, error.count, NOW, NOW, error.count, 0, None, error) for run_id in run_ids]
    for connection in api.bridge.connections:
        await api.database.write(
            lambda tx, name=connection: run_leases.acquire_due(tx, node=NODE, connection=name, until=tx.now, limit=1000)
        )
    await api.database.write(lambda tx: run_leases.save_polls(tx, node=NODE, records=records))


async def test_a_filter_that_lets_nothing_through_is_a_remark_with_the_command_that_shows_why(sqlite_api: Api) -> None:
    """The endpoint is enabled, nothing fails and nothing is pending: an operator would be left to guess."""
    expression = "data.run.metadata.tenant == 'acme'"
    closed = (await sqlite_api.create_endpoint(filter=expression))["id"]
    rare = (await sqlite_api.create_endpoint(events=["run.overdue"], filter=expression))["id"]
    assert (await find(sqlite_api))[f"endpoint {closed}"][0][0] == "ok", "there was no event yet"
    run = await sqlite_api.register(metadata={"tenant": "other"})
    await sqlite_api.finish(run["id"])
    found = await find(sqlite_api)
    ((result, detail),) = found[f"endpoint {closed}"]
    assert (result, detail.partition(";")[0]) == (
        "remark",
        "its filter lets none of the newest 2 events of its types through",
    )
    assert f"`runbridge endpoints test-filter {shlex.quote(expression)}` shows them" in detail
    ((result, detail),) = found[f"endpoint {rare}"]
    assert (result, detail.endswith("nothing was sent to it in the last day; it wants only run.overdue")) == (
        "ok",
        True,
    )


async def test_runs_that_could_not_be_read_are_grouped_by_their_trouble_on_whatever_node(api: Api) -> None:
    first, second, settled, _fine = [(await api.register(f"r-{n}"))["id"] for n in range(4)]
    await fail_polls(api, [first], ERROR)
    await fail_polls(api, [second, settled], replace(ERROR, count=2))
    await api.finish(settled)
    found = await find(api)
    assert found["runs of dify-prod"] == [
        ("remark", f"2 could not be read: HTTP 400: no such app (3 times in a row at {first})")
    ]
    assert "runs" not in found
    api.bridge.held[first] = LivePoll(5, NOW, NOW, last_error=replace(ERROR, count=9))
    api.bridge.held[second] = LivePoll(5, NOW, NOW)  # it has answered since
    assert (await find(api))["runs of dify-prod"] == [
        ("remark", f"1 could not be read: HTTP 400: no such app (9 times in a row at {first})")
    ]
    api.bridge.held[first] = LivePoll(5, NOW, NOW)
    assert (await find(api))["runs"] == [("ok", "the last poll of every watched run could be read")]


async def test_runs_whose_trouble_quotes_their_own_ids_are_grouped(sqlite_api: Api) -> None:
    """Most messages hold the address that was asked."""
    for run in [await sqlite_api.register(f"r-{n}") for n in range(2)]:
        message = f"GET /jobs/{run['provider_run_id']}: HTTP 404"
        await fail_polls(sqlite_api, [run["id"]], replace(ERROR, message=message))
    ((result, detail),) = (await find(sqlite_api))["runs of dify-prod"]
    assert (result, detail.startswith("2 could not be read: GET /jobs/{id}: HTTP 404 (")) == ("remark", True)


async def test_many_failing_runs_of_one_connection_do_not_hide_those_of_another(sqlite_api: Api) -> None:
    many = [(await sqlite_api.register(f"r-{n}"))["id"] for n in range(FAILING_RUNS_MAX + 1)]
    other = (await sqlite_api.register("r", connection="dify-test"))["id"]
    await fail_polls(sqlite_api, [*many, other], ERROR)
    found = await find(sqlite_api)
    assert found["runs of dify-prod"][0][1].startswith(f"at least {FAILING_RUNS_MAX} could not be read")
    assert found["runs of dify-test"][0][1].startswith("1 could not be read")


async def test_secrets_that_no_key_opens_are_named(api: Api) -> None:
    await api.create_endpoint()
    assert (await find(api))["secrets"][0][0] == "ok"
    api.database.keyring.use(parse_keys(new_key()))
    await api.create_endpoint()
    api.database.keyring.use(parse_keys(new_key()))
    await api.create_endpoint()
    stored = await api.database.read(lambda tx: tx.connection.execute(sa.select(endpoint_secrets)).all())
    ((result, detail),) = (await find(api))["secrets"]
    lost = {row.endpoint_id for row in stored if row.endpoint_id in detail}
    assert (result, len(lost)) == ("wrong", 1), "not the one without a key, nor that under the present one"


async def test_a_node_that_is_not_seen_is_a_remark(postgresql_url: str) -> None:
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
