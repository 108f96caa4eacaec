"""Faults on request, the rate limit, and the control address."""

from __future__ import annotations

import asyncio
import json
import uuid

import aiohttp
import pytest

from bridge.sandbox import Sandbox, Scenario, Step
from tests.support.manual_clock import ManualClock

RUN_PATHS = {
    "dibby": "/runs/{}",
    "retab": "/v1/workflows/runs/{}",
    "dify": "/workflows/run/{}",
    "instabase": "/v2/apps/runs/{}",
}
ERROR_KEYS = {"dibby": {"error"}, "retab": {"detail"}, "dify": {"code", "message", "status"}, "instabase": {"message"}}
EACH = pytest.mark.parametrize("provider", RUN_PATHS)


def run_url(sandbox: Sandbox, provider: str, run_id: str) -> str:
    return sandbox.url(provider) + RUN_PATHS[provider].format(run_id)


@EACH
@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Bearer", "Basic sandbox-key", "Bearer sandbox-key2"])
async def test_without_the_key_each_api_answers_401_in_its_own_shape(
    sandbox: Sandbox, provider: str, authorization: str
) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": authorization}) as stranger:
        answer = await stranger.get(run_url(sandbox, provider, sandbox.add_run(provider)))
        assert (answer.status, set(await answer.json())) == (401, ERROR_KEYS[provider])


@EACH
@pytest.mark.parametrize("kind", ["404", "429", "500", "503", "403"])
async def test_an_injected_status_comes_in_the_apis_own_shape_and_is_used_up(
    sandbox: Sandbox, client: aiohttp.ClientSession, provider: str, kind: str
) -> None:
    url = run_url(sandbox, provider, sandbox.add_run(provider))
    sandbox.fail(provider, kind, 2, retry_after=7)
    answers = [await client.get(url) for _ in range(3)]
    assert [answer.status for answer in answers] == [int(kind), int(kind), 200]
    assert [answer.headers.get("Retry-After") for answer in answers] == ["7", "7", None]
    assert set(await answers[0].json()) == ERROR_KEYS[provider]


@EACH
async def test_a_missing_run_and_a_missing_address_are_404_in_the_apis_own_shape(
    sandbox: Sandbox, client: aiohttp.ClientSession, provider: str
) -> None:
    for url in (run_url(sandbox, provider, str(uuid.uuid4())), sandbox.url(provider) + "/nowhere"):
        answer = await client.get(url)
        assert (answer.status, set(await answer.json())) == (404, ERROR_KEYS[provider])


@EACH
async def test_a_new_run_can_stay_invisible_for_a_while(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock, provider: str
) -> None:
    url = run_url(sandbox, provider, sandbox.add_run(provider, late_404_s=5))
    before = (await client.get(url)).status
    clock.advance(5)
    assert (before, (await client.get(url)).status) == (404, 200)


@EACH
async def test_a_lost_run_is_404_for_good(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock, provider: str
) -> None:
    scenario = Scenario(None, steps=(Step(0, "running"), Step(10, "lost")))
    url = run_url(sandbox, provider, sandbox.add_run(provider, scenario=scenario))
    before = (await client.get(url)).status
    clock.advance(10)
    assert (before, (await client.get(url)).status) == (200, 404)


async def test_garbage_is_200_with_half_a_json_text(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    sandbox.fail("dify", "garbage")
    answer = await client.get(run_url(sandbox, "dify", sandbox.add_run("dify")))
    assert (answer.status, answer.content_type) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        await answer.json()


@pytest.mark.parametrize(("kind", "status"), [("502", 502), ("504", 504), ("html", 200)])
async def test_what_a_proxy_says_is_html(
    sandbox: Sandbox, client: aiohttp.ClientSession, kind: str, status: int
) -> None:
    sandbox.fail("retab", kind)
    answer = await client.get(run_url(sandbox, "retab", sandbox.add_run("retab")))
    assert (answer.status, answer.content_type) == (status, "text/html")


async def test_reset_breaks_the_connection(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    url = run_url(sandbox, "dibby", sandbox.add_run("dibby"))
    sandbox.fail("dibby", "reset", None)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get(url)
    sandbox.clear_faults()
    assert (await client.get(url)).status == 200
    assert sandbox.requests[0].fault == "reset"
    assert sandbox.requests[0].status is None


async def test_hang_answers_nothing_until_the_faults_are_cleared(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    sandbox.fail("dibby", "hang")
    request = asyncio.create_task(client.get(run_url(sandbox, "dibby", sandbox.add_run("dibby"))))
    while not sandbox.requests:
        await asyncio.sleep(0)
    assert (sandbox.requests[0].status, sandbox.state.in_flight["dibby"]) == (None, 1)
    sandbox.clear_faults()
    assert (await request).status == 503


async def test_a_caller_who_gives_up_on_a_hanging_request_is_no_longer_in_flight(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    """Tests of the limits on concurrency read this count."""
    sandbox.fail("dibby", "hang")
    request = asyncio.create_task(client.get(run_url(sandbox, "dibby", "x")))
    while not sandbox.state.in_flight["dibby"]:
        await asyncio.sleep(0)
    request.cancel()
    async with asyncio.timeout(60):
        while sandbox.state.in_flight["dibby"]:
            await asyncio.sleep(0.01)
    assert sandbox.requests[0].status is None


async def test_a_fault_strikes_only_what_it_names(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    mine, other = (sandbox.add_run("instabase", age_s=60) for _ in range(2))
    sandbox.fail("instabase", "500", None, run_id=mine, path_contains="/results")
    urls = [run_url(sandbox, "instabase", run_id) for run_id in (mine, f"{mine}/results", f"{other}/results")]
    assert [(await client.get(url)).status for url in urls] == [200, 500, 200]


async def test_a_fault_without_provider_strikes_all(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    sandbox.fail(None, "500", None)
    urls = [run_url(sandbox, provider, sandbox.add_run(provider)) for provider in RUN_PATHS]
    assert [(await client.get(url)).status for url in urls] == [500] * 4


@pytest.mark.parametrize("kind", ["200", "999", "explode", ""])
async def test_a_fault_that_does_not_exist_is_refused(sandbox: Sandbox, kind: str) -> None:
    with pytest.raises(ValueError, match="is not a fault"):
        sandbox.fail("dify", kind)


async def test_beyond_the_rate_limit_comes_429_with_retry_after_until_time_has_passed(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    url = run_url(sandbox, "dify", sandbox.add_run("dify"))
    sandbox.limit("dify", 0.5, burst=2)
    answers = [await client.get(url) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].headers["Retry-After"] == "2"
    clock.advance(2)
    assert [(await client.get(url)).status for _ in range(2)] == [200, 429]
    sandbox.limit("dify", None)
    assert (await client.get(url)).status == 200


async def test_a_rate_limit_can_go_unannounced(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    sandbox.limit("dify", 1, burst=1, is_announced=False)
    url = run_url(sandbox, "dify", sandbox.add_run("dify"))
    answers = [await client.get(url) for _ in range(2)]
    assert [(answer.status, "Retry-After" in answer.headers) for answer in answers] == [(200, False), (429, False)]


async def test_the_control_door_does_what_the_methods_do(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    control = f"{sandbox.origin}/_control"
    scenario = {
        "duration_s": 10,
        "outcome": "failed",
        "steps": [{"after_s": 0, "status": "running"}, {"after_s": 5, "status": "waiting"}],
        "error": "it broke",
    }
    made = await client.post(f"{control}/runs", json={"provider": "retab", "life": scenario, "shape": "b"})
    run_id = (await made.json())["id"]
    assert (made.status, run_id.startswith("run_")) == (201, True)
    url = run_url(sandbox, "retab", run_id)
    words_seen = []
    for _ in range(3):
        words_seen.append((await (await client.get(url)).json())["lifecycle"]["kind"])
        clock.advance(5)
    assert words_seen == ["running", "waiting_for_human", "error"]

    await client.post(f"{control}/faults", json={"provider": "retab", "kind": "429", "retry_after": 3})
    assert (await client.get(url)).headers["Retry-After"] == "3"
    await client.post(f"{control}/limits", json={"provider": "retab", "per_second": 1, "burst": 1})
    assert [(await client.get(url)).status for _ in range(2)] == [200, 429]

    seen = await (await client.get(f"{control}/requests?provider=retab&skip=3")).json()
    assert seen["counts"] == {"retab": 6}
    assert [(one["status"], one["fault"], one["run_id"]) for one in seen["data"]] == [
        (429, "429", run_id),
        (200, None, run_id),
        (429, None, run_id),
    ]
    assert (await client.post(f"{control}/reset")).status == 204
    assert (await client.get(url)).status == 404


async def test_the_control_door_sets_what_triggered_runs_live_and_takes_faults_back(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    control = f"{sandbox.origin}/_control"
    await client.post(f"{control}/faults", json={"kind": "500", "count": None})
    assert (await client.delete(f"{control}/faults")).status == 204
    scenario = {"duration_s": 1, "output": {"n": 10**30}}
    assert (await client.post(f"{control}/lives", json={"provider": "dibby", "life": scenario})).status == 204
    run = await (await client.post(f"{sandbox.url('dibby')}/runs", json={"workflowId": "w"})).json()
    clock.advance(1)
    assert (await (await client.get(f"{sandbox.url('dibby')}/runs/{run['id']}")).json())["output"] == {"n": 10**30}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("runs", {"provider": "nope"}, "there is no provider nope; there are dibby"),
        ("runs", {"provider": "dify", "shape": "z"}, "dify has no shape z"),
        ("runs", {"provider": "dify", "life": {"parts": 0, "duration": 1}}, "life.duration"),
        ("runs", {"provider": "dibby", "life": {"outcome": "partial"}}, "dibby has no word for partial"),
        ("lives", {"provider": "dibby", "life": {"outcome": "partial"}}, "dibby has no word for partial"),
        ("faults", {"kind": "explode"}, "explode is not a fault"),
        ("limits", {"provider": "dify", "per_second": 0}, "per_second"),
        ("runs", None, "provider"),
    ],
)
async def test_the_control_door_names_what_is_wrong(
    sandbox: Sandbox, client: aiohttp.ClientSession, path: str, body: object, words: str
) -> None:
    answer = await client.post(f"{sandbox.origin}/_control/{path}", json={} if body is None else body)
    assert answer.status == 400
    assert words in (await answer.json())["error"]


async def test_stopping_ends_a_request_that_hangs(clock: ManualClock, client: aiohttp.ClientSession) -> None:
    sandbox = await Sandbox(clock=clock).start()
    sandbox.fail("dify", "hang", None)
    request = asyncio.create_task(client.get(run_url(sandbox, "dify", "x")))
    while not sandbox.requests:
        await asyncio.sleep(0)
    await sandbox.stop()
    assert (await request).status == 503
    await sandbox.stop()


async def test_the_most_requests_at_one_time_are_counted(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    sandbox.fail("dify", "hang", 3)
    request = [asyncio.create_task(client.get(run_url(sandbox, "dify", "x"))) for _ in range(3)]
    while sandbox.state.in_flight["dibby"] + sandbox.state.in_flight["dify"] < 3:
        await asyncio.sleep(0)
    sandbox.clear_faults()
    await asyncio.gather(*request)
    assert (sandbox.state.in_flight_peak["dify"], sandbox.state.in_flight["dify"]) == (3, 0)
