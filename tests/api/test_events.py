"""The pull feed, one event, sending one again, and the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import sqlalchemy as sa

from bridge.api import stream
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.run import RunStatus
from bridge.store import attempts, deliveries, events
from bridge.store.attempts import AttemptResult
from tests.support.api_bridge import TOKEN, Api


async def test_the_feed_is_pulled_page_by_page_in_the_order_of_recording(api: Api) -> None:
    for number in range(2):
        await api.finish((await api.register(f"r-{number}"))["id"])
    seen: list[str] = []
    after = ""
    for expected in (4, 2, 0):
        page = await api.call("GET", f"/v1/events?limit=4{after}")
        assert len(page.body["data"]) == expected
        seen += [event["id"] for event in page.body["data"]]
        after = f"&after={page.body['next_cursor']}"
    assert page.body["next_cursor"] == seen[-1]
    assert [event.id for event in await api.database.read(lambda tx: events.list_feed(tx, after=0, limit=9))] == seen


async def test_a_client_that_follows_the_cursor_reaches_the_end_of_the_feed(api: Api) -> None:
    await api.finish((await api.register())["id"])
    feed = (await api.call("GET", "/v1/events")).body["data"]
    page = await api.call("GET", "/v1/events?limit=1")
    seen = page.body["data"]
    for _ in feed:
        page = await api.call("GET", f"/v1/events?limit=1&cursor={page.body['next_cursor']}")
        seen += page.body["data"]
    assert (seen, page.body) == (feed, {"data": [], "next_cursor": None})


async def test_events_are_listed_newest_first_page_by_page(api: Api) -> None:
    for number in range(2):
        await api.finish((await api.register(f"r-{number}"))["id"])
    feed = [event["id"] for event in (await api.call("GET", "/v1/events")).body["data"]]
    seen: list[str] = []
    after = ""
    for expected in (4, 2):
        page = await api.call("GET", f"/v1/events?order=newest&limit=4{after}")
        assert len(page.body["data"]) == expected
        seen += [event["id"] for event in page.body["data"]]
        after = f"&after={page.body['next_cursor']}"
    assert page.body["next_cursor"] is None
    assert seen == feed[::-1]
    narrowed = await api.call("GET", "/v1/events?order=newest&type=run.finished&limit=1")
    assert narrowed.body["data"][0]["type"] == "run.finished"
    assert (await api.call("GET", "/v1/events?order=sideways")).status == 422


async def test_an_empty_feed_has_no_cursor(sqlite_api: Api) -> None:
    assert (await sqlite_api.call("GET", "/v1/events")).content == b'{"data":[],"next_cursor":null}'


async def test_the_feed_holds_the_stored_bytes(api: Api) -> None:
    """A client that pulls events can verify the same signature over the same bytes as a webhook's receiver."""
    await api.finish((await api.register(metadata={"ü": "€"}))["id"])
    page = await api.call("GET", "/v1/events")
    for event in await api.database.read(lambda tx: events.list_feed(tx, after=0, limit=9)):
        assert event.body in page.content
        one = await api.call("GET", f"/v1/events/{event.id}")
        assert (one.content, one.headers["Content-Type"]) == (event.body, "application/json")


async def test_the_feed_can_be_narrowed_to_types_and_a_run(api: Api) -> None:
    ids = [(await api.register(f"r-{number}"))["id"] for number in range(2)]
    for run_id in ids:
        await api.finish(run_id)
    for query, count in (
        ("type=run.finished", 2),
        ("type=run.finished,run.started", 4),
        ("type=run.finished&type=run.started", 4),
        (f"run_id={ids[0]}", 3),
        (f"type=run.finished&run_id={ids[1]}", 1),
    ):
        assert len((await api.call("GET", f"/v1/events?{query}")).body["data"]) == count, query


async def test_an_unknown_place_in_the_feed_is_a_404(sqlite_api: Api) -> None:
    """Events from the beginning would be taken for new ones."""
    for path in ("/v1/events?after=evt_none", "/v1/events/evt_none", "/v1/events/stream?after=evt_none"):
        assert (await sqlite_api.call("GET", path)).status == 404
    assert "type" in (await sqlite_api.call("GET", "/v1/events?type=run.done")).fields


async def test_an_event_is_sent_again_to_all_that_had_it_or_want_it_now(api: Api) -> None:
    had = await api.create_endpoint(events=["run.finished"])
    await api.finish((await api.register())["id"])
    new, _ = await api.create_endpoint(), await api.create_endpoint(events=["run.waiting"])
    finished = (await api.call("GET", "/v1/events?type=run.finished")).body["data"][0]
    reply = await api.call("POST", f"/v1/events/{finished['id']}/replay")
    assert reply.status == 202
    due = (await api.call("GET", f"/v1/deliveries?event={finished['id']}")).body["data"]
    assert sorted(d["id"] for d in due) == sorted(reply.body["deliveries"])
    assert {d["endpoint_id"] for d in due} == {had["id"], new["id"]}
    assert {(d["manual"], d["state"]) for d in due} == {(True, "pending")}


@pytest.mark.slow
async def test_sending_an_event_again_takes_as_many_statements_for_forty_endpoints_as_for_two(sqlite_api: Api) -> None:
    """A thousand endpoints took 1.4 s of CPU in one transaction, in which nothing else could be written."""
    for _ in range(2):
        await sqlite_api.create_endpoint(events=["run.finished"])
    await sqlite_api.create_endpoint(events=["run.finished"], ordered=True)
    await sqlite_api.finish((await sqlite_api.register())["id"])
    finished = (await sqlite_api.call("GET", "/v1/events?type=run.finished")).body["data"][0]
    counts = []

    def note(*_: object) -> None:
        counts[-1] += 1

    for number, added in ((3, 0), (41, 38)):
        for _ in range(added):
            await sqlite_api.create_endpoint(events=["run.finished"])
        for _ in range(2):  # as new deliveries, and as those that are there
            counts.append(0)
            sa.event.listen(sa.Engine, "before_cursor_execute", note)
            reply = await sqlite_api.call("POST", f"/v1/events/{finished['id']}/replay")
            sa.event.remove(sa.Engine, "before_cursor_execute", note)
            assert len(set(reply.body["deliveries"])) == number
    assert max(counts) - min(counts) < 10, counts


async def test_a_client_that_asks_again_while_it_is_being_sent_is_not_forgotten(api: Api) -> None:
    """A receiver may ask before the attempt that it has just answered is recorded."""
    endpoint = await api.create_endpoint(events=["run.finished"])
    await api.finish((await api.register())["id"])
    (claimed,) = await api.database.write(
        lambda tx: deliveries.acquire_due(tx, node="n", endpoint_id=endpoint["id"], limit=1)
    )
    asked = asyncio.create_task(api.call("POST", f"/v1/events/{claimed.delivery.event_id}/replay"))
    done, _ = await asyncio.wait({asked}, timeout=0.1)
    assert not done
    answer = PostResult(Outcome.DELIVERED, 12, 200)
    result = AttemptResult(claimed.delivery, claimed.delivery.created_at, answer, DeliveryState.DELIVERED, None)
    await api.database.write(lambda tx: attempts.record_attempts(tx, node="n", results=[result]))
    assert (await asked).status == 202
    (again,) = (await api.call("GET", f"/v1/deliveries?event={claimed.delivery.event_id}")).body["data"]
    assert (again["state"], again["manual"]) == ("pending", True)


async def test_an_event_is_sent_to_the_named_endpoint_only_even_if_it_never_asked_for_it(api: Api) -> None:
    await api.create_endpoint()
    named = await api.create_endpoint(events=["run.waiting"])
    await api.finish((await api.register())["id"])
    finished = (await api.call("GET", "/v1/events?type=run.finished")).body["data"][0]
    reply = await api.call("POST", f"/v1/events/{finished['id']}/replay", {"endpoint": named["id"]})
    again = await api.call("POST", f"/v1/events/{finished['id']}/replay", {"endpoint": named["id"]})
    assert (len(reply.body["deliveries"]), again.body) == (1, reply.body)
    one = await api.call("GET", f"/v1/deliveries/{reply.body['deliveries'][0]}")
    assert one.body["endpoint_id"] == named["id"]


async def test_a_webhook_of_another_run_never_gets_events_of_this_one(sqlite_api: Api) -> None:
    other = await sqlite_api.register("other", webhook={"url": "https://a.example.org"})
    run = await sqlite_api.register("r-1")
    await sqlite_api.finish(run["id"])
    finished = (await sqlite_api.call("GET", f"/v1/events?type=run.finished&run_id={run['id']}")).body["data"][0]
    path = f"/v1/events/{finished['id']}/replay"
    assert (await sqlite_api.call("POST", path)).body == {"deliveries": []}
    assert (await sqlite_api.call("POST", path, {"endpoint": other["webhook"]["id"]})).status == 409
    assert (await sqlite_api.call("POST", path, {"endpoint": "ep_none"})).status == 404


@asynccontextmanager
async def opened(api: Api, query: str = "", **headers: str) -> AsyncIterator[aiohttp.StreamReader]:
    """A stream after its greeting."""
    sent = {"Authorization": f"Bearer {TOKEN}", **headers}
    async with api.session.get(f"{api.url}/v1/events/stream{query}", headers=sent) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        assert await response.content.readuntil(b"\n\n") == b"retry: 2000\n\n"
        yield response.content


async def read_event(content: aiohttp.StreamReader) -> tuple[str, str, bytes]:
    """Id, type and body of the next message."""
    async with asyncio.timeout(60):
        lines = (await content.readuntil(b"\n\n")).rstrip().split(b"\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    return fields[b"id"].decode(), fields[b"event"].decode(), fields[b"data"]


async def test_a_stream_shows_what_happens_from_now_on(api: Api) -> None:
    run = await api.register()
    await api.see(run["id"], RunStatus.RUNNING)
    async with opened(api) as content:
        await api.see(run["id"], RunStatus.SUCCEEDED)
        event_id, event_type, body = await read_event(content)
    stored = await api.call("GET", f"/v1/events/{event_id}")
    assert (event_type, body) == ("run.finished", stored.content)


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_stream_resumes_behind_the_last_event_that_was_read(api: Api, by_header: bool) -> None:
    await api.finish((await api.register())["id"])
    known = [event["id"] for event in (await api.call("GET", "/v1/events")).body["data"]]
    place = {"Last-Event-ID": known[0]} if by_header else {}
    async with opened(api, "?after=evt_none" if by_header else f"?after={known[0]}", **place) as content:
        assert [(await read_event(content))[0] for _ in range(2)] == known[1:]


async def test_a_stream_of_some_types_passes_over_the_others(sqlite_api: Api) -> None:
    first = await sqlite_api.register("r-1")
    async with opened(sqlite_api, "?type=run.finished") as content:
        await sqlite_api.finish(first["id"])
        await sqlite_api.finish((await sqlite_api.register("r-2"))["id"])
        assert [(await read_event(content))[1] for _ in range(2)] == ["run.finished"] * 2


async def test_a_stream_of_changes_says_only_that_there_are_new_events(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dashboard fetches what it shows; fifty events a second would cost the daemon more than that."""
    async with opened(api, "?changes=true&type=run.finished") as content:
        await api.finish((await api.register("r-1"))["id"])
        known = (await api.call("GET", "/v1/events?order=newest")).body["data"]
        newest = known[0]["id"]
        assert await read_event(content) == (newest, "changed", b'{"events":%d}' % len(known))
    monkeypatch.setattr(stream, "CHANGES_GAP_S", 0.0)
    async with opened(api, f"?changes=true&after={newest}") as content:
        for number in range(2, 6):
            await api.finish((await api.register(f"r-{number}"))["id"])
        newest = (await api.call("GET", "/v1/events?order=newest&limit=1")).body["data"][0]["id"]
        while (await read_event(content))[0] != newest:
            pass


@pytest.mark.slow
async def test_a_stream_notices_events_that_no_commit_announced(sqlite_api: Api) -> None:
    """Another node may have recorded them."""
    run = await sqlite_api.register()
    sqlite_api.database.listeners.clear()
    async with opened(sqlite_api) as content:
        await sqlite_api.see(run["id"], RunStatus.RUNNING)
        assert (await read_event(content))[1] == "run.started"


async def test_an_idle_stream_beats(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(stream, "RECHECK_S", 0.01)
    async with opened(sqlite_api) as content:
        for _ in range(2):
            assert await content.readuntil(b"\n\n") == b": ping\n\n"


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_in_is_dropped_and_the_others_are_not(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WRITE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(stream, "STREAMS_MAX", 2)  # so that a third is let in as soon as one is dropped
    host, _, port = sqlite_api.url.removeprefix("http://").partition(":")
    slow_reader, slow_writer = await asyncio.open_connection(host, int(port), limit=1024)
    request = f"GET /v1/events/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    slow_writer.write(request.encode())
    await slow_reader.readuntil(b"retry: 2000\n\n")
    slow_writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with opened(sqlite_api, "?type=run.finished") as content:
        for number in range(1000):
            run = await sqlite_api.register(f"r-{number}")
            await sqlite_api.see(run["id"], RunStatus.FAILED, output={"text": "x" * 200_000})
            assert json.loads((await read_event(content))[2])["data"]["run"]["id"] == run["id"]
            if number % 20 == 0 and await is_let_in(sqlite_api):
                break
        else:
            pytest.fail("the slow reader was never dropped")
    slow_writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        with pytest.raises(ConnectionError):
            while await slow_reader.read(2**20):
                pass
            raise ConnectionResetError
    slow_writer.close()


async def is_let_in(api: Api) -> bool:
    """Whether one more stream may be opened; it is closed at once."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with api.session.get(f"{api.url}/v1/events/stream", headers=headers) as response:
        return response.status == 200


async def test_there_is_a_bound_on_open_streams(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STREAMS_MAX", 1)
    async with opened(sqlite_api):
        reply = await sqlite_api.call("GET", "/v1/events/stream")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "30")


async def test_the_bound_holds_for_streams_that_are_opened_at_once(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STREAMS_MAX", 2)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    replies = await asyncio.gather(
        *(sqlite_api.session.get(f"{sqlite_api.url}/v1/events/stream", headers=headers) for _ in range(20))
    )
    assert sorted(reply.status for reply in replies) == [200] * 2 + [503] * 18
    for reply in replies:
        reply.close()


async def test_a_stream_that_was_refused_takes_no_place(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STREAMS_MAX", 1)
    for _ in range(3):
        assert (await sqlite_api.call("GET", "/v1/events/stream?after=evt_unheard_of")).status not in {200, 503}
    async with opened(sqlite_api):
        pass
