from __future__ import annotations

import pytest
from aiohttp import web

from bridge.domain.errors import ProviderRefused
from bridge.domain.failure import FailureKind
from bridge.providers import REGISTRY
from bridge.providers.base import Triggered
from bridge.providers.http import ProviderFailure
from bridge.providers.retab import output_of_steps
from tests.support.foreign_server import answering
from tests.support.provider_http import KEY, provider_against

RETAB = REGISTRY["retab"]
STARTED = {"id": "run_1", "lifecycle": {"status": "pending"}}


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v2"])
async def test_a_version_at_the_end_of_the_base_url_is_not_doubled(suffix):
    """The official client takes such an address too."""
    async with provider_against(answering(STARTED), "retab", suffix=suffix) as (http, server):
        await RETAB.fetch_run(http, "run_1")
    assert server.seen[0].target == "/v1/workflows/runs/run_1"


async def test_a_version_inside_the_base_url_stays():
    async with provider_against(answering(STARTED), "retab", suffix="/v1/proxy") as (http, server):
        await RETAB.fetch_run(http, "run_1")
    assert server.seen[0].target == "/v1/proxy/v1/workflows/runs/run_1"


async def test_the_key_is_a_bearer_token_unless_the_old_header_is_asked_for():
    async with provider_against(answering({"data": []}), "retab") as (http, server):
        await RETAB.check(http)
    sent = server.seen[0]
    assert (sent.target, sent.headers["authorization"]) == ("/v1/workflows/runs?limit=1", f"Bearer {KEY}")
    assert "api-key" not in sent.headers
    async with provider_against(answering({"data": []}), "retab", auth_scheme="api-key") as (http, server):
        await RETAB.check(http)
    assert server.seen[0].headers["api-key"] == KEY
    assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize(
    ("inputs", "sent_inputs"),
    [
        ({"json_inputs": {"b1": 1}, "documents": {"b2": {"url": "data:,"}}}, None),
        ({"documents": {"b2": {"url": "data:,"}}}, None),
        ({"b1": {"x": 1}}, {"json_inputs": {"b1": {"x": 1}}}),
        ({}, {}),
        (None, {}),
    ],
    ids=["both", "documents", "by block", "empty", "none"],
)
async def test_a_trigger_takes_inputs_by_kind_or_by_start_block(inputs, sent_inputs):
    async with provider_against(answering(STARTED), "retab") as (http, server):
        assert await RETAB.trigger(http, "wf_1", inputs, {"version": "draft"}) == Triggered("run_1")
    sent = server.seen[0]
    assert (sent.method, sent.target) == ("POST", "/v1/workflows/runs")
    assert sent.body == {"workflow_id": "wf_1", "version": "draft", **(inputs if sent_inputs is None else sent_inputs)}


@pytest.mark.parametrize("word", ["cancelled", "cancellation_requested"])
async def test_a_wish_to_cancel_that_was_received_is_enough(word):
    async with provider_against(answering({"run": STARTED, "cancellation_status": word}), "retab") as (http, server):
        await RETAB.cancel(http, "run_1", None)
    assert (server.seen[0].method, server.seen[0].target) == ("POST", "/v1/workflows/runs/run_1/cancel")


@pytest.mark.parametrize(
    ("status", "body"), [(200, {"cancellation_status": "cancellation_failed"}), (409, {"detail": "over"})]
)
async def test_a_cancel_that_did_not_work_is_a_refusal(status, body):
    async with provider_against(answering(body, status=status), "retab") as (http, _):
        with pytest.raises(ProviderRefused):
            await RETAB.cancel(http, "run_1", None)


def step(block: str, data: object, *, kind: str = "extract", status: str = "completed", handle: str = "output-json-0"):
    outputs = {} if data is None else {handle: {"type": "json", "data": data, "document": None}}
    return {
        "block_id": block,
        "step_id": f"run_1_{block}",
        "block_type": kind,
        "lifecycle": {"status": status},
        "handle_outputs": outputs,
    }


def paging(steps: list[object], per_page: int):
    async def answer(request: web.Request) -> web.Response:
        if request.path != "/v1/workflows/steps" or request.query["run_id"] != "run_1":
            return web.json_response({"detail": "Not Found"}, status=404)
        start = int(request.query.get("after", "0"))
        end = start + per_page
        after = str(end) if end < len(steps) else None
        return web.json_response({"data": steps[start:end], "list_metadata": {"before": None, "after": after}})

    return answer


@pytest.mark.parametrize("per_page", [1, 2, 20])
async def test_the_steps_of_all_pages_make_the_output(per_page):
    steps = [step("start-1", {"in": 1}, kind="start_json"), step("a", {"x": 1}), step("b", [2]), step("c", None)]
    async with provider_against(paging(steps, per_page), "retab") as (http, _):
        assert await RETAB.fetch_output(http, "run_1") == {"a": {"x": 1}, "b": [2]}


async def test_a_server_from_before_may_2026_is_asked_at_its_own_address():
    flat = [
        {"node_id": "start-node-1", "node_type": "start", "status": "completed", "output": {"in": 1}},
        {"node_id": "extract-node-1", "node_type": "extract", "status": "completed", "output": {"total": 2}},
    ]

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/workflows/runs/run_1/steps":
            return web.json_response(flat)
        return web.json_response({"detail": "Not Found"}, status=404)

    async with provider_against(answer, "retab") as (http, server):
        for _ in range(3):
            assert await RETAB.fetch_output(http, "run_1") == {"extract-node-1": {"total": 2}}
    assert len(server.seen) == 2 + 1 + 1, "an address that this server does not have is not asked first again"


async def test_a_cursor_that_stands_still_comes_to_an_end():
    page = {"data": [step("a", 1)], "list_metadata": {"after": "same"}}
    async with provider_against(answering(page), "retab") as (http, server):
        assert await RETAB.fetch_output(http, "run_1") == {"a": 1}
    assert len(server.seen) == 2


async def test_the_pages_together_keep_to_the_cap_of_one_body():
    async with provider_against(paging([step("a", "x" * 1000)] * 50, 1), "retab") as (http, server):
        http.body_bytes_max = 10_000
        with pytest.raises(ProviderFailure, match="too large"):
            await RETAB.fetch_output(http, "run_1")
    assert len(server.seen) < 12


async def test_a_server_that_moves_to_the_present_address_is_followed():
    served: list[str] = ["/v1/workflows/runs/run_1/steps"]

    async def answer(request: web.Request) -> web.Response:
        if request.path in served:
            return web.json_response({"data": [step("a", {"x": 1})]})
        return web.json_response({"detail": "Not Found"}, status=404)

    async with provider_against(answer, "retab") as (http, server):
        await RETAB.fetch_output(http, "run_1")
        served[:] = ["/v1/workflows/steps"]
        for _ in range(2):
            assert await RETAB.fetch_output(http, "run_1") == {"a": {"x": 1}}
    assert len(server.seen) == 2 + 2 + 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, {}, FailureKind.SERVER_ERROR),
        (404, {}, FailureKind.NOT_FOUND),
        (200, {"data": 7}, FailureKind.BAD_PAYLOAD),
        (200, 7, FailureKind.BAD_PAYLOAD),
    ],
)
async def test_steps_that_cannot_be_had_are_a_failure(status, body, kind):
    async with provider_against(answering(body, status=status), "retab") as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await RETAB.fetch_output(http, "run_1")
    assert caught.value.failed.kind is kind


def test_where_there_are_end_blocks_only_theirs_count():
    assert output_of_steps([step("a", 1), step("end-1", {"out": 2}, kind="end")]) == {"end-1": {"out": 2}}


def test_end_blocks_without_json_leave_the_others():
    assert output_of_steps([step("a", 1), step("end-1", None, kind="end")]) == {"a": 1}


@pytest.mark.parametrize("status", ["error", "skipped", "running", "cancelled"])
def test_a_step_that_did_not_complete_has_no_say(status):
    assert output_of_steps([step("a", 1, status=status)]) is None


def test_a_block_that_ran_in_a_loop_has_a_list():
    assert output_of_steps([step("a", 1), step("a", 2), step("b", 3)]) == {"a": [1, 2], "b": 3}


def test_several_handles_are_distinguished_and_files_are_left_out():
    many = step("a", 1)
    many["handle_outputs"] |= {"second": {"type": "json", "data": 2}, "pdf": {"type": "file", "document": {"id": "f"}}}
    assert output_of_steps([many]) == {"a": {"output-json-0": 1, "second": 2}}


def test_steps_of_odd_shapes_are_passed_over():
    odd = [{}, {"lifecycle": 1, "status": "completed"}, {"status": "completed", "handle_outputs": [1]}]
    assert output_of_steps(odd) is None
