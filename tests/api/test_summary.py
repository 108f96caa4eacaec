"""`GET /v1/summary`: everything at a glance, without counting for every request."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from bridge.api import counts
from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.errors import StoreUnavailable
from bridge.domain.finding import Finding
from bridge.domain.run import RunStatus
from bridge.store import attempts, deliveries, endpoint_health
from bridge.store.attempts import AttemptResult
from bridge.store.connections import change_health
from bridge.store.transaction import Tx
from tests.support.api_bridge import NODE, NOW, Api
from tests.support.waiting import until


@pytest.fixture
def is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every count is waited for, however busy this machine is."""
    monkeypatch.setattr(counts, "AWAITED_S", 60.0)
    monkeypatch.setattr(counts, "SHARE_MAX", 1000.0)


@pytest.mark.usefixtures("is_patient")
async def test_runs_and_deliveries_are_counted_and_the_minutes_add_up(api: Api) -> None:
    endpoint = await api.create_endpoint()
    for name in ("a", "b", "c"):
        await api.register(name)
    done = await api.register("d", webhook={"url": "https://one.example.org/"})
    await api.finish(done["id"])
    failed = await api.register("e")
    await api.see(failed["id"], RunStatus.FAILED)
    api.clock.advance(2)
    body = (await api.call("GET", "/v1/summary")).body
    wanted = {"queued": 3, "succeeded": 1, "failed": 1}
    assert body["runs"]["by_status"] == wanted
    assert body["runs"]["by_connection"] == {"dify-prod": wanted, "dify-test": {}}
    assert body["deliveries"]["by_state"] == {"pending": 4}
    assert body["deliveries"]["by_endpoint"] == {endpoint["id"]: {"pending": 3}}
    assert body["deliveries"]["one_run_webhooks"] == {"pending": 1}
    assert body["deliveries"]["oldest_due_at"] == "2026-01-15T10:30:00.000Z"
    assert len(body["minutes"]) == 60
    assert body["minutes"][-1] == {"at": "2026-01-15T10:30:00.000Z", "settled": 2, "delivered": 0, "failed": 0}


@pytest.mark.usefixtures("is_patient")
async def test_a_kept_count_is_renewed_after_a_second(api: Api) -> None:
    await api.call("GET", "/v1/summary")
    await api.register("a")
    assert (await api.call("GET", "/v1/summary")).body["runs"]["by_status"] == {}
    api.clock.advance(counts.FRESH_S)
    assert (await api.call("GET", "/v1/summary")).body["runs"]["by_status"] == {"queued": 1}


async def test_a_count_that_takes_long_is_not_waited_for_and_follows_after_a_rest(api: Api) -> None:
    """At a million runs a count takes some 100 ms; a summary must not."""
    seconds = iter([0.0, 0.2, 1.0, 1.2, 2.0, 2.2])
    keeper = counts.CountKeeper(api.database, api.clock, measure=lambda: next(seconds))
    await keeper.read()
    await api.register("a")
    api.clock.advance(9.9)
    assert not (await keeper.read())[0].runs
    api.clock.advance(0.2)
    assert not (await keeper.read())[0].runs
    under_way = keeper.begin()
    assert (await under_way)[0].runs
    assert (await keeper.read())[0].runs
    await keeper.close()


async def test_a_count_that_takes_long_is_waited_for_where_the_one_before_is_old(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing counts while no reader asks: minutes later the first one was shown what had been before them."""
    monkeypatch.setattr(counts, "AWAITED_WHEN_OLD_S", 60.0)
    seconds = iter([0.0, 0.2, 1.0, 1.2])
    keeper = counts.CountKeeper(api.database, api.clock, measure=lambda: next(seconds))
    await keeper.read()
    await api.register("a")
    api.clock.advance(counts.OLD_S + 1)
    assert (await keeper.read())[0].runs == {("dify-prod", "queued"): 1}
    await keeper.close()


@pytest.mark.usefixtures("is_patient")
async def test_a_count_that_ends_late_is_as_old_as_its_beginning(sqlite_api: Api) -> None:
    """The one that a start begins may have read the database before the first run was registered."""
    has_read, may_end = threading.Event(), threading.Event()
    seconds = iter([0.0, 0.001, 0.0, 0.001])

    def measure() -> float:
        reading = next(seconds)
        if reading and not may_end.is_set():
            has_read.set()
            assert may_end.wait(60)
        return reading

    keeper = counts.CountKeeper(sqlite_api.database, sqlite_api.clock, measure=measure)
    keeper.begin()
    assert await asyncio.to_thread(has_read.wait, 60)
    await sqlite_api.register("a")
    sqlite_api.clock.advance(counts.FRESH_S)
    may_end.set()
    assert (await keeper.newest())[0].runs == {("dify-prod", "queued"): 1}
    await keeper.close()


async def test_while_the_first_count_after_a_start_takes_long_a_summary_has_those_that_were_kept(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a million runs it takes a second. Here it takes until the kept counts were read, in a thread of its own."""
    seconds = iter([0.0, 0.2, 1.0, 1.2])
    was_read = threading.Event()

    def measure() -> float:
        assert was_read.wait(60)
        return next(seconds)

    before = counts.CountKeeper(sqlite_api.database, sqlite_api.clock, measure=lambda: next(seconds))
    await sqlite_api.register("a")
    await before.read()
    await before.close()
    await sqlite_api.register("b")
    after = counts.CountKeeper(sqlite_api.database, sqlite_api.clock, measure=measure)
    monkeypatch.setattr(counts, "AWAITED_S", 0.0)
    kept, _ = await after.newest()
    was_read.set()
    assert sum(kept.runs.values()) < 2  # kept before "b" was there, here or by the API itself
    assert sum((await after.begin())[0].runs.values()) == 2
    assert sum((await after.newest())[0].runs.values()) == 2
    await after.close()


@pytest.mark.usefixtures("is_patient")
async def test_what_needs_attention_comes_first_with_a_sentence_about_what_to_do(api: Api) -> None:
    quiet = (await api.call("GET", "/v1/summary")).body
    assert [item["severity"] for item in quiet["attention"]] == ["warning", "warning"]  # ApiBridge is crowded
    assert quiet["status"] == "ok"
    endpoint = await api.create_endpoint()
    await api.call("POST", f"/v1/endpoints/{endpoint['id']}/disable")
    reason = "HTTP 401: the key was refused"
    failing = ConnectionHealth.FAILING
    await api.database.write(lambda tx: change_health(tx, "dify-prod", provider="dify", health=failing, reason=reason))
    body = (await api.call("GET", "/v1/summary")).body
    first, second, *_ = body["attention"]
    assert (first["kind"], first["id"], first["severity"]) == ("connection", "dify-prod", "error")
    assert reason in first["sentence"]
    assert "runbridge connections check dify-prod" in first["sentence"]
    assert (second["kind"], second["id"]) == ("endpoint", endpoint["id"])
    assert "runbridge endpoints enable" in second["sentence"]
    assert (body["status"], body["sentence"]) == ("attention", first["sentence"])
    about_it = [item for item in body["attention"] if item["id"] == "dify-prod"]
    assert about_it == [first]  # not that it is crowded, which is because it fails


def fail_delivery(tx: Tx, endpoint_id: str, answer: PostResult) -> None:
    """One delivery is tried, fails, and is due again in an hour."""
    (leased,) = deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint_id, limit=1)
    again_at = tx.now + timedelta(hours=1)
    result = AttemptResult(leased.delivery, tx.now, answer, DeliveryState.PENDING, again_at)
    attempts.record_attempts(tx, node=NODE, results=[result])
    endpoint_health.apply_result(tx, endpoint_id, answer)


@pytest.mark.usefixtures("is_patient")
async def test_an_endpoint_that_accepts_nothing_says_why_at_a_glance(api: Api) -> None:
    refused, unsigned = [(await api.create_endpoint())["id"] for _ in range(2)]
    answers = {
        refused: PostResult(Outcome.CLIENT_ERROR, duration_ms=3, status=403, detail="the receiver answered 403"),
        unsigned: PostResult(Outcome.UNSIGNED, duration_ms=0, detail="its secret is of another key"),
    }
    run = await api.register()
    await api.finish(run["id"])
    for endpoint_id, answer in answers.items():
        await api.database.write(lambda tx, one=endpoint_id, said=answer: fail_delivery(tx, one, said))
    about = {item["id"]: item["sentence"] for item in (await api.call("GET", "/v1/summary")).body["attention"]}
    assert "the receiver answered 403; the receiver refuses; check its signing secret" in about[refused]
    assert "Nothing can be sent" in about[unsigned]
    assert "its secret is of another key" in about[unsigned]
    doctor = [one["check"] for one in (await api.call("GET", "/v1/doctor")).body["data"] if one["result"] == "wrong"]
    assert sorted(doctor) == sorted([f"endpoint {refused}", f"endpoint {unsigned}"]), "each once"


@pytest.mark.usefixtures("is_patient")
@pytest.mark.parametrize(
    ("answer", "result", "words"),
    [
        (PostResult(Outcome.CLIENT_ERROR, 3, 413, "the receiver answered 413"), "wrong", "bodies of 256 KiB"),
        (PostResult(Outcome.SERVER_ERROR, 3, 500, "the receiver answered 500"), "remark", "look at its log"),
        (PostResult(Outcome.DNS, 3, None, "the name cannot be looked up"), "remark", "the daemon's resolver"),
    ],
)
async def test_an_endpoint_that_takes_some_deliveries_and_fails_others_says_why(
    api: Api, answer: PostResult, result: str, words: str
) -> None:
    """Its health is that of the last answer: a success hid a receiver that refuses every large body."""
    endpoint_id = (await api.create_endpoint())["id"]
    await api.finish((await api.register())["id"])
    await api.database.write(lambda tx: fail_delivery(tx, endpoint_id, answer))
    taken = PostResult(Outcome.DELIVERED, 3, 204)
    await api.database.write(lambda tx: endpoint_health.apply_result(tx, endpoint_id, taken))
    body = (await api.call("GET", "/v1/summary")).body
    (about,) = (item for item in body["attention"] if item["id"] == endpoint_id)
    assert about["sentence"].startswith(f"Some deliveries to {endpoint_id} fail and are tried again: {answer.detail}; ")
    assert words in about["sentence"]
    assert body["status"] == ("attention" if result == "wrong" else "ok")
    found = [one for one in (await api.call("GET", "/v1/doctor")).body["data"] if endpoint_id in one["check"]]
    assert [(one["result"], words in one["detail"]) for one in found] == [(result, True)]


@pytest.mark.usefixtures("is_patient")
@pytest.mark.parametrize(("rate_limit", "words"), [(2, "`rate_limit` lets 2 a second through"), (None, "receiver is")])
async def test_deliveries_that_are_late_say_whether_a_limit_or_the_receiver_holds_them_up(
    sqlite_api: Api, rate_limit: int | None, words: str
) -> None:
    given = {} if rate_limit is None else {"rate_limit": rate_limit}
    endpoint_id = (await sqlite_api.create_endpoint(**given))["id"]
    await sqlite_api.finish((await sqlite_api.register())["id"])
    sqlite_api.clock.advance(90)
    body = (await sqlite_api.call("GET", "/v1/summary")).body
    (about,) = (item for item in body["attention"] if item["id"] == endpoint_id)
    assert "due for 90s (2 wait)" in about["sentence"]
    assert words in about["sentence"]


@pytest.mark.usefixtures("is_patient")
async def test_what_is_wrong_with_the_daemon_itself_needs_attention(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Finding(False, "disk", "0.0 GB free; make room, a full disk stops everything")
    others = [Finding(None, "SQLite", "old"), Finding(True, "files", "good")]
    monkeypatch.setattr(api.bridge, "findings", lambda: [full, *others])
    body = (await api.call("GET", "/v1/summary")).body
    (item,) = (one for one in body["attention"] if one["kind"] == "daemon")
    assert (item["id"], item["severity"], body["status"]) == ("disk", "error", "attention")
    assert body["sentence"] == item["sentence"] == "disk: 0.0 GB free; make room, a full disk stops everything."


@pytest.mark.usefixtures("is_patient")
async def test_a_database_that_takes_nothing_is_said_before_everything_else(api: Api) -> None:
    def fail(_tx: object) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    with pytest.raises(StoreUnavailable):
        await api.database.write(fail)
    summary = (await api.call("GET", "/v1/summary")).body
    assert (summary["status"], summary["sentence"].startswith("Nothing can be recorded: the disk")) == (
        "attention",
        True,
    )


@pytest.mark.usefixtures("is_patient")
async def test_minutes_that_are_over_are_not_counted_again(api: Api) -> None:
    """Reading an hour of attempts each time would cost more than all the rest."""
    keeper = counts.CountKeeper(api.database, api.clock)
    run = await api.register("a")
    await api.finish(run["id"])
    assert (await keeper.read())[1][NOW].settled == 1
    api.clock.advance(180)
    await keeper.read()
    await api.database.write(lambda tx: tx.connection.exec_driver_sql("DELETE FROM events"))
    api.clock.advance(60)
    assert (await keeper.read())[1][NOW].settled == 1
    api.clock.advance(2 * 3600)
    assert NOW not in (await keeper.read())[1]
    await keeper.close()


@pytest.mark.usefixtures("is_patient")
async def test_the_hours_of_a_day_are_counted_once_they_are_over(api: Api) -> None:
    """The last one is not over: its minutes are added up."""
    await api.finish((await api.register("a"))["id"])
    api.clock.advance(3600)
    await api.finish((await api.register("b"))["id"])
    found: list[list[dict[str, Any]]] = []

    async def is_counted() -> bool:
        api.clock.advance(1)
        found.append((await api.call("GET", "/v1/summary")).body["hours"])
        return all(hour["settled"] is not None for hour in found[-1]) and found[-1][-1]["settled"] == 1

    await until(is_counted)
    assert [hour["at"] for hour in found[-1]] == sorted(hour["at"] for hour in found[-1])
    assert (len(found[-1]), found[-1][-1]["at"]) == (24, "2026-01-15T11:00:00.000Z")
    assert [hour["settled"] for hour in found[-1]] == [*[0] * 22, 1, 1]


@pytest.mark.usefixtures("is_patient")
async def test_the_hour_that_is_just_over_has_its_numbers_at_once(api: Api) -> None:
    """The first summary of a new hour shows what the one before saw of the old."""
    await api.finish((await api.register("a"))["id"])
    api.clock.advance(60)
    assert (await api.call("GET", "/v1/summary")).body["hours"][-1]["settled"] == 1
    api.clock.advance(29 * 60)  # to eleven
    just_over, current = (await api.call("GET", "/v1/summary")).body["hours"][-2:]
    assert (just_over["at"], just_over["settled"]) == ("2026-01-15T10:00:00.000Z", 1)
    assert (current["at"], current["settled"]) == ("2026-01-15T11:00:00.000Z", 0)
    api.clock.advance(180)
    await api.call("GET", "/v1/summary")
    api.clock.advance(3600)
    *_, older, just_over, current = (await api.call("GET", "/v1/summary")).body["hours"]
    assert [one["settled"] for one in (older, just_over, current)] == [1, 0, 0]
