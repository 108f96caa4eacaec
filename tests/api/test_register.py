"""Registering runs: `POST /v1/runs` and its batch."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.api.ports import LivePoll
from bridge.api.response_models import BatchAnswer, RegisteredRun
from bridge.domain.errors import ProviderFailed, ProviderRefused, Unsupported
from bridge.domain.event import run_body
from bridge.domain.failure import FailureKind, LastError
from bridge.domain.run import RunStatus
from bridge.store import endpoints, runs
from tests.support.api_bridge import NOW, Api

HOOK = {"url": "https://app.example.org/done"}


async def test_a_new_run_is_answered_with_201_and_every_field_of_an_event(api: Api) -> None:
    """Clients read registration and webhook with the same code."""
    reply = await api.call(
        "POST",
        "/v1/runs",
        {
            "connection": "dify-prod",
            "provider_run_id": "fb47b2e6",
            "workflow_id": "flow-1",
            "metadata": {"order": 7, "Üml": [None, 1.5]},
            "tags": ["b", "a"],
        },
    )
    assert reply.status == 201
    run = await api.database.read(lambda tx: runs.get_run(tx, reply.body["id"]))
    assert run is not None
    assert run_body(run).items() <= reply.body.items()
    assert reply.body["status"] == "queued"
    assert reply.body["provider_status"] is None
    assert reply.body["metadata"] == {"order": 7, "Üml": [None, 1.5]}
    assert reply.body["tags"] == ["b", "a"]
    assert (reply.body["polls"], reply.body["last_polled_at"]) == (0, None)
    assert reply.body["next_poll_at"] == "2026-01-15T10:30:00.000Z"
    assert "webhook" not in reply.body
    assert RegisteredRun.model_validate_json(reply.content).to_bytes() == reply.content


async def test_a_second_registration_is_answered_with_200_and_changes_nothing(api: Api) -> None:
    first = await api.register("r-1", metadata={"first": True}, tags=["x"])
    reply = await api.call(
        "POST",
        "/v1/runs",
        {"connection": "dify-prod", "provider_run_id": "r-1", "metadata": {"second": True}, "deadline": "1h"},
    )
    assert (reply.status, reply.body) == (200, first)


async def test_the_same_id_at_another_connection_is_another_run(api: Api) -> None:
    first = await api.register("r-1")
    second = await api.register("r-1", connection="dify-test")
    assert first["id"] != second["id"]


async def test_a_run_held_in_memory_shows_its_fresher_polls(sqlite_api: Api) -> None:
    run = await sqlite_api.register()
    sqlite_api.bridge.held[run["id"]] = LivePoll(5, NOW, NOW + timedelta(seconds=9), "a tenth of the age")
    shown = await sqlite_api.register()
    assert (shown["polls"], shown["next_poll_at"]) == (5, "2026-01-15T10:30:09.000Z")
    assert shown["next_poll_reason"] == "a tenth of the age"
    assert shown["last_error"] is None


async def test_a_run_shows_its_failed_polls_since_the_last_that_could_be_read(sqlite_api: Api) -> None:
    run = await sqlite_api.register()
    assert run["last_error"] is None
    error = LastError(NOW, FailureKind.TIMEOUT, "no answer within 30s", 2)
    sqlite_api.bridge.held[run["id"]] = LivePoll(5, NOW, NOW + timedelta(seconds=9), last_error=error)
    expected = {"at": "2026-01-15T10:30:00.000Z", "kind": "timeout", "message": "no answer within 30s", "count": 2}
    assert (await sqlite_api.call("GET", f"/v1/runs/{run['id']}")).body["last_error"] == expected
    [listed] = (await sqlite_api.call("GET", "/v1/runs")).body["data"]
    assert listed["last_error"] == expected
    again = await sqlite_api.call("POST", "/v1/runs", {"connection": run["connection"], "provider_run_id": "r-1"})
    assert again.body["last_error"] == expected
    assert RegisteredRun.model_validate_json(again.content).to_bytes() == again.content


async def test_a_webhook_without_secret_gets_one_that_is_shown_once(api: Api) -> None:
    first = await api.register("r-1", webhook=HOOK)
    assert first["webhook"]["secret"].startswith("whsec_")
    again = await api.register("r-1", webhook=HOOK)
    assert again["webhook"] == {**first["webhook"], "secret": None}
    shown = await api.call("GET", f"/v1/endpoints/{first['webhook']['id']}")
    assert shown.body["events"] == ["run.finished"]
    assert first["webhook"]["secret"] not in shown.content.decode()


async def test_a_webhook_given_later_is_added_and_the_same_url_is_not_added_twice(api: Api) -> None:
    run = await api.register("r-1", webhook=HOOK)
    await api.register("r-1", webhook=HOOK)
    other = await api.register("r-1", webhook={"url": "https://other.example.org/"})
    assert other["webhook"]["secret"] is not None
    found = await api.database.read(lambda tx: endpoints.list_run_endpoints(tx, [run["id"]]))
    assert sorted(endpoint.url for endpoint in found) == [HOOK["url"], "https://other.example.org/"]


async def test_a_webhook_for_a_settled_run_fires_at_once_with_the_recorded_event(api: Api) -> None:
    """The late subscriber hears the same event, with the same id, as everybody did."""
    run = await api.register("r-1")
    await api.finish(run["id"])
    added = await api.register("r-1", webhook=HOOK)
    due = await api.call("GET", f"/v1/deliveries?endpoint={added['webhook']['id']}")
    events = await api.call("GET", f"/v1/events?type=run.finished&run_id={run['id']}")
    assert [d["event_id"] for d in due.body["data"]] == [events.body["data"][0]["id"]]
    await api.register("r-1", webhook=HOOK)
    assert len((await api.call("GET", "/v1/deliveries")).body["data"]) == 1


async def test_a_late_webhook_that_does_not_want_the_end_gets_nothing(sqlite_api: Api) -> None:
    run = await sqlite_api.register("r-1")
    await sqlite_api.finish(run["id"])
    await sqlite_api.register("r-1", webhook={**HOOK, "events": ["run.waiting"]})
    assert (await sqlite_api.call("GET", "/v1/deliveries")).body["data"] == []


@pytest.mark.parametrize(
    ("deadline", "at", "fixed"),
    [
        (None, "2026-02-14T10:30:00.000Z", False),
        ("2h", "2026-01-15T12:30:00.000Z", False),
        ("1h30m", "2026-01-15T12:00:00.000Z", False),
        ("2026-01-16T00:00:00+01:00", "2026-01-15T23:00:00.000Z", True),
    ],
)
async def test_a_deadline_is_a_duration_from_registration_or_an_instant(
    sqlite_api: Api, deadline: str | None, at: str, fixed: bool
) -> None:
    """Only a duration moves on while the run waits for a person."""
    run = await sqlite_api.register(**({} if deadline is None else {"deadline": deadline}))
    assert run["deadline_at"] == at
    kept = await sqlite_api.database.read(lambda tx: runs.get_run(tx, run["id"]))
    assert kept is not None
    assert kept.deadline_is_fixed is fixed


@pytest.mark.parametrize("nested", [True, False])
async def test_cadence_keys_may_stand_at_the_top_or_under_cadence(sqlite_api: Api, nested: bool) -> None:
    keys = {"price": "2s", "min_interval": "1s", "max_interval": "1m"}
    run = await sqlite_api.register(**({"cadence": keys} if nested else keys))
    kept = await sqlite_api.database.read(lambda tx: runs.get_run(tx, run["id"]))
    assert kept is not None
    assert (kept.cadence.price_s, kept.cadence.min_interval_s, kept.cadence.max_interval_s) == (2, 1, 60)


async def test_a_trigger_starts_the_run_and_watches_it(api: Api) -> None:
    trigger = {"workflow_id": "flow-1", "inputs": {"q": 1}, "user": "me"}
    reply = await api.call("POST", "/v1/runs", {"connection": "dify-prod", "trigger": trigger, "webhook": HOOK})
    assert reply.status == 201
    assert api.bridge.asked == [("trigger", ("dify-prod", "flow-1", {"q": 1}, {"user": "me"}))]
    assert (reply.body["provider_run_id"], reply.body["workflow_id"]) == ("started-1", "flow-1")
    kept = await api.database.read(lambda tx: runs.get_run(tx, reply.body["id"]))
    assert kept is not None
    assert kept.provider_ref == "task-1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProviderRefused("the provider refuses: out of credit"), 422),
        (ProviderFailed("no answer within 30 s"), 502),
        (Unsupported("runs cannot be started at instabase"), 409),
    ],
)
async def test_what_the_provider_says_to_a_trigger_is_passed_on(sqlite_api: Api, error: Exception, status: int) -> None:
    sqlite_api.bridge.refuses = error  # type: ignore[assignment]
    reply = await sqlite_api.call("POST", "/v1/runs", {"connection": "dify-prod", "trigger": {"workflow_id": "w"}})
    assert (reply.status, reply.body["detail"]) == (status, str(error))


async def test_a_run_that_was_started_but_not_recorded_is_named(sqlite_api: Api) -> None:
    """Otherwise it could not be found again, and a second try would start a second one."""
    sqlite_api.bridge.before_trigger = asyncio.Event()
    asked = asyncio.create_task(
        sqlite_api.call("POST", "/v1/runs", {"connection": "dify-prod", "trigger": {"workflow_id": "w"}})
    )
    await sqlite_api.bridge.trigger_asked.wait()
    Path(str(sqlite_api.database.url.database)).unlink()
    sqlite_api.bridge.before_trigger.set()
    reply = await asked
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    assert "'started-1'" in reply.body["detail"]


async def test_a_batch_answers_each_item_in_order(api: Api) -> None:
    await api.register("old")
    items = [
        {"connection": "dify-prod", "provider_run_id": "new"},
        {"connection": "dify-prod", "provider_run_id": "old", "webhook": HOOK},
        {"connection": "nope", "provider_run_id": "x"},
        {"connection": "dify-prod", "provider_run_id": "new"},
        "nonsense",
        {"connection": "dify-prod", "trigger": {"workflow_id": "w"}},
        {"connection": "dify-test", "provider_run_id": "new", "webhook": HOOK, "tags": ["t"]},
    ]
    reply = await api.call("POST", "/v1/runs/batch", {"runs": items})
    assert reply.status == 200
    data = reply.body["data"]
    assert [item["status"] for item in data] == [201, 200, 422, 200, 422, 422, 201]
    assert data[0]["run"]["id"] == data[3]["run"]["id"]
    assert data[1]["run"]["webhook"]["secret"].startswith("whsec_")
    assert data[2]["error"]["errors"][0]["field"] == "connection"
    assert BatchAnswer.model_validate_json(reply.content).to_bytes() == reply.content
    assert api.bridge.asked == []
    tagged = await api.call("GET", "/v1/runs?tag=t")
    assert [run["id"] for run in tagged.body["data"]] == [data[6]["run"]["id"]]


async def test_a_batch_takes_a_thousand_runs_and_not_one_more(sqlite_api: Api) -> None:
    items = [{"connection": "dify-prod", "provider_run_id": f"r-{n}", "metadata": {"n": n}} for n in range(1001)]
    assert (await sqlite_api.call("POST", "/v1/runs/batch", {"runs": items})).fields == {
        "runs": "may have at most 1000 entries"
    }
    reply = await sqlite_api.call("POST", "/v1/runs/batch", {"runs": items[:1000]})
    assert {item["status"] for item in reply.body["data"]} == {201}
    assert [item["run"]["metadata"]["n"] for item in reply.body["data"]] == list(range(1000))


async def test_the_same_run_registered_at_the_same_time_is_watched_once(api: Api) -> None:
    """On PostgreSQL the two transactions really meet; one must not fail."""
    both = await asyncio.gather(*(api.register("r-1") for _ in range(8)))
    assert len({run["id"] for run in both}) == 1
    assert both[0]["status"] == RunStatus.QUEUED.value


@pytest.mark.parametrize(
    ("status", "more", "answer"),
    [
        (RunStatus.LOST, {}, 201),
        (RunStatus.EXPIRED, {}, 201),
        (RunStatus.FAILED, {}, 200),
        (RunStatus.FAILED, {"rewatch": True}, 201),
        (RunStatus.LOST, {"rewatch": False}, 201),
        (RunStatus.RUNNING, {"rewatch": True}, 200),
    ],
)
async def test_a_run_that_is_over_is_watched_again_as_a_new_one(
    api: Api, status: RunStatus, more: dict[str, bool], answer: int
) -> None:
    """`lost` and `expired` are our own verdicts, which may be wrong; the provider's need to be asked for."""
    old = await api.register("r-1", metadata={"try": 1}, tags=["x"])
    await api.see(old["id"], status)
    before = (await api.call("GET", f"/v1/runs/{old['id']}")).body
    body = {"connection": "dify-prod", "provider_run_id": "r-1", "metadata": {"try": 2}, **more}
    reply = await api.call("POST", "/v1/runs", body)
    assert (reply.status, reply.body["id"] != old["id"]) == (answer, answer == 201)
    if answer == 201:
        assert (reply.body["status"], reply.body["metadata"], reply.body["polls"]) == ("queued", {"try": 2}, 0)
    assert (await api.call("GET", f"/v1/runs/{old['id']}")).body == before
    assert before["provider_run_id"] == reply.body["provider_run_id"] == "r-1"
    assert (await api.call("GET", "/v1/runs/dify-prod:r-1")).body["id"] == reply.body["id"]
    for query in ("provider_run_id=r-1", "q=r-"):
        listed = (await api.call("GET", f"/v1/runs?{query}")).body["data"]
        assert [run["id"] for run in listed] == ([reply.body["id"], old["id"]] if answer == 201 else [old["id"]])
    again = await api.call("POST", "/v1/runs", {**body, "rewatch": False})
    assert (again.status, again.body["id"]) == (200, reply.body["id"])


async def test_a_run_is_watched_a_third_time_and_from_a_batch(api: Api) -> None:
    webhook = {"url": "https://app.example.org/once"}
    body = {"connection": "dify-prod", "provider_run_id": "r-1", "webhook": webhook}
    made = []
    for _ in range(3):
        reply = (await api.call("POST", "/v1/runs/batch", {"runs": [body, body]})).body["data"]
        assert [item["status"] for item in reply] == [201, 200]
        assert len({item["run"]["id"] for item in reply}) == 1
        assert reply[0]["run"]["webhook"]["secret"] is not None
        made.append(reply[0]["run"]["id"])
        await api.see(made[-1], RunStatus.LOST)
    assert len(set(made)) == 3
    listed = (await api.call("GET", "/v1/runs?provider_run_id=r-1&status=lost")).body["data"]
    assert [run["id"] for run in listed] == made[::-1]
    finished = (await api.call("GET", "/v1/events?type=run.finished")).body["data"]
    assert [event["data"]["run"]["id"] for event in finished] == made


async def test_the_same_key_watches_again_once(sqlite_api: Api) -> None:
    run = await sqlite_api.register("r-1")
    await sqlite_api.see(run["id"], RunStatus.LOST)
    body, key = {"connection": "dify-prod", "provider_run_id": "r-1"}, {"Idempotency-Key": "k"}
    first = await sqlite_api.call("POST", "/v1/runs", body, headers=key)
    await sqlite_api.see(first.body["id"], RunStatus.LOST)
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=key)).content == first.content


TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "rojo=1"}


async def test_the_trace_context_of_a_registration_is_kept_with_its_run(api: Api) -> None:
    body = {"connection": "dify-prod", "provider_run_id": "r-1"}
    reply = await api.call("POST", "/v1/runs", body, headers=TRACE)
    await api.call("POST", "/v1/runs/batch", {"runs": [{**body, "provider_run_id": "r-2"}]}, headers=TRACE)
    await api.call(
        "POST", "/v1/runs", {**body, "provider_run_id": "r-3"}, headers={"traceparent": "nonsense", "tracestate": "a=1"}
    )
    kept = await api.database.read(lambda tx: runs.find_watched(tx, "dify-prod", ["r-1", "r-2", "r-3"]))
    said = " ".join(TRACE.values())
    assert {name: run.trace_context for name, run in kept.items()} == {"r-1": said, "r-2": said, "r-3": None}
    assert "trace" not in str(reply.body)
