"""Connections, health, metrics and the front page."""

from __future__ import annotations

from bridge.domain.connection import ConnectionHealth
from bridge.domain.errors import StoreUnavailable
from bridge.domain.failure import FailureKind, LastError
from bridge.store.connections import change_health
from tests.support.api_bridge import NOW, Api


async def test_connections_show_health_limits_and_cadence_and_never_a_key(api: Api) -> None:
    await api.database.write(
        lambda tx: change_health(
            tx, "dify-prod", provider="dify", health=ConnectionHealth.FAILING, reason="the key is refused"
        )
    )
    reply = await api.call("GET", "/v1/connections")
    failing, fine = reply.body["data"]
    assert (failing["name"], failing["health"], failing["reason"]) == ("dify-prod", "failing", "the key is refused")
    assert (fine["name"], fine["health"], fine["since"]) == ("dify-test", "unknown", None), "before its first answer"
    assert fine["last_error"] is None
    assert fine["limits"] == {"requests_per_second": None, "max_in_flight": None}
    assert fine["cadence"]["max_interval"] == "5m"
    assert fine["state"] == {"in_flight": 0}
    assert "canary" not in reply.content.decode()


async def test_a_connection_that_answered_is_ok_since_then_and_nothing_is_reported(api: Api) -> None:
    for health in (ConnectionHealth.OK, ConnectionHealth.OK):
        told = await api.database.write(
            lambda tx, health=health: change_health(tx, "dify-prod", provider="dify", health=health, reason=None)
        )
        assert not told
    [answered, _] = (await api.call("GET", "/v1/connections")).body["data"]
    assert (answered["health"], answered["reason"], answered["since"] is None) == ("ok", None, False)
    assert (await api.call("GET", "/v1/events")).body["data"] == []


async def test_a_connection_shows_its_failed_polls_since_the_last_that_could_be_read(sqlite_api: Api) -> None:
    sqlite_api.bridge.last_errors["dify-prod"] = LastError(NOW, FailureKind.BAD_PAYLOAD, "HTML instead of JSON", 3)
    shown = (await sqlite_api.call("GET", "/v1/connections/dify-prod")).body
    assert shown["last_error"] == {
        "at": "2026-01-15T10:30:00.000Z",
        "kind": "bad_payload",
        "message": "HTML instead of JSON",
        "count": 3,
    }


async def test_one_connection_is_shown_as_in_the_list(sqlite_api: Api) -> None:
    first, _ = (await sqlite_api.call("GET", "/v1/connections")).body["data"]
    shown = await sqlite_api.call("GET", "/v1/connections/dify-prod")
    assert (shown.status, shown.body) == (200, first)
    unknown = await sqlite_api.call("GET", "/v1/connections/dify-prd")
    assert (unknown.status, "did you mean `dify-prod`" in unknown.body["detail"]) == (404, True)


async def test_a_workflow_that_is_named_is_shown_with_its_distribution_and_the_planned_polls(sqlite_api: Api) -> None:
    learned = (await sqlite_api.call("GET", "/v1/connections/dify-prod?workflow=wf")).body["distribution"]
    assert (learned["workflow_id"], learned["runs_remembered"]) == ("wf", 2)
    assert learned["cells"][0]["from_s"] < 30 < learned["cells"][-1]["to_s"]
    assert learned["planned_polls_s"][0] == 0
    assert learned["expected_polls"] > 1
    same = await sqlite_api.call("GET", "/v1/connections/dify-prod?workflow_id=wf")
    assert same.body["distribution"] == learned


async def test_a_workflow_without_runs_is_shown_as_it_is_assumed(sqlite_api: Api) -> None:
    for query, workflow_id in (("workflow=new", "new"), ("workflow=", None)):
        learned = (await sqlite_api.call("GET", f"/v1/connections/dify-prod?{query}")).body["distribution"]
        assert (learned["workflow_id"], learned["runs_remembered"]) == (workflow_id, 0)
        assert learned["cells"]
    refused = await sqlite_api.call("GET", "/v1/connections/dify-prod?work=new")
    assert (refused.status, list(refused.fields)) == (422, ["work"])


async def test_a_check_makes_one_call_and_shows_what_came_of_it(sqlite_api: Api) -> None:
    reply = await sqlite_api.call("POST", "/v1/connections/dify-prod/check")
    brought = {"ok": True, "result": "ok", "detail": "the key works", "at": reply.body["at"], "duration_ms": 12}
    assert (reply.status, reply.body) == (200, brought)
    shown = await sqlite_api.call("GET", "/v1/connections/dify-prod")
    assert shown.body["last_check"] == brought
    assert sqlite_api.bridge.asked == [("check", "dify-prod")]
    unknown = await sqlite_api.call("POST", "/v1/connections/dify-prd/check")
    assert (unknown.status, "did you mean `dify-prod`" in unknown.body["detail"]) == (404, True)


async def test_a_connection_says_when_its_list_was_last_read(sqlite_api: Api) -> None:
    sqlite_api.bridge.lists["dify-prod"] = NOW
    listed, never = (await sqlite_api.call("GET", "/v1/connections")).body["data"]
    assert (listed["last_list_at"], never["last_list_at"]) == ("2026-01-15T10:30:00.000Z", None)


async def test_alive_is_not_the_same_as_ready(sqlite_api: Api) -> None:
    sqlite_api.bridge.ready = False
    alive = await sqlite_api.call("GET", "/healthz", token=None)
    assert (alive.status, alive.body) == (200, {"status": "ok", "version": "1.2.3"})
    reply = await sqlite_api.call("GET", "/readyz", token=None)
    assert (reply.status, reply.body) == (503, {"status": "not ready", "checks": {"database": False}})
    sqlite_api.bridge.ready = True
    assert (await sqlite_api.call("GET", "/readyz", token=None)).status == 200


async def test_metrics_count_what_the_database_holds(api: Api) -> None:
    await api.create_endpoint(events=["run.finished"])
    await api.register("r-1")
    await api.finish((await api.register("r-2"))["id"])
    lines = (await api.call("GET", "/metrics")).content.decode().splitlines()
    assert 'runbridge_watched_runs{connection="dify-prod",status="queued"} 1.0' in lines
    assert 'runbridge_kept_deliveries{state="pending"} 1.0' in lines


async def test_the_front_page_says_what_this_is(sqlite_api: Api) -> None:
    reply = await sqlite_api.call("GET", "/", token=None)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "/openapi.json" in reply.content.decode()


async def test_a_database_that_cannot_be_used_is_a_503_with_its_sentence(sqlite_api: Api) -> None:
    async def refuse(work: object) -> None:
        raise StoreUnavailable("the disk that holds the database is full")

    sqlite_api.database.read = sqlite_api.database.write = refuse  # type: ignore[assignment, method-assign]
    for method, path in (("GET", "/v1/runs"), ("POST", "/v1/endpoints")):
        reply = await sqlite_api.call(method, path, {"url": "https://a.example.org"} if method == "POST" else None)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
        assert reply.body["detail"] == "the disk that holds the database is full"


async def test_an_unforeseen_error_shows_its_request_id_and_nothing_else(sqlite_api: Api) -> None:
    async def fail(work: object) -> None:
        raise RuntimeError("canary")

    sqlite_api.database.read = fail  # type: ignore[assignment, method-assign]
    reply = await sqlite_api.call("GET", "/v1/runs")
    assert reply.status == 500
    assert reply.body["request_id"] == reply.headers["X-Request-Id"]
    assert "canary" not in reply.content.decode()
    assert "Traceback" not in reply.content.decode()
