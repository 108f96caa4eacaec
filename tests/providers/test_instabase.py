from __future__ import annotations

import pytest
from aiohttp import web

from bridge.domain.errors import ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.providers import REGISTRY
from bridge.providers.base import Triggered
from bridge.providers.http import ProviderFailure
from tests.support.foreign_server import answering
from tests.support.provider_http import KEY, provider_against

INSTABASE = REGISTRY["instabase"]
RUN = "a1b2c3d4-e5f6-7890-abcd-ef1234567890"


def paging(files: list[object], per_page: int, **faults: object):
    async def answer(request: web.Request) -> web.Response:
        start = int(request.query.get("file_offset", "0"))
        if start and "then" in faults:
            return web.json_response({"message": "later"}, status=500)
        page = files[start : start + per_page]
        has_more = start + per_page < len(files) or "endless" in faults
        return web.json_response({"id": RUN, "batch_id": "4523", "files": page, "has_more": has_more})

    return answer


@pytest.mark.parametrize("per_page", [1, 2, 5, 9])
async def test_the_results_of_all_pages_are_one_object(per_page):
    files = [{"original_file_name": f"{n}.pdf"} for n in range(5)]
    async with provider_against(paging(files, per_page), "instabase", suffix="/api") as (http, server):
        output = await INSTABASE.fetch_output(http, RUN)
    assert output == {"id": RUN, "batch_id": "4523", "files": files, "has_more": False}
    assert server.seen[0].target == f"/api/v2/apps/runs/{RUN}/results"
    assert len(server.seen) == -(-5 // per_page)


async def test_pages_that_promise_more_without_giving_any_come_to_an_end():
    async with provider_against(paging([1, 2], 2, endless=True), "instabase") as (http, server):
        assert await INSTABASE.fetch_output(http, RUN) == {
            "id": RUN,
            "batch_id": "4523",
            "files": [1, 2],
            "has_more": False,
        }
    assert len(server.seen) == 2


async def test_a_page_that_fails_fails_the_whole():
    """Half of the results would be taken for all of them."""
    async with provider_against(paging([1, 2, 3], 1, then=500), "instabase") as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await INSTABASE.fetch_output(http, RUN)
    assert caught.value.failed.kind is FailureKind.SERVER_ERROR


@pytest.mark.parametrize("body", [[], {"files": {}}, {"files": "x"}, 7])
async def test_results_of_another_shape_are_a_bad_payload(body):
    async with provider_against(answering(body), "instabase") as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await INSTABASE.fetch_output(http, RUN)
    assert caught.value.failed.kind is FailureKind.BAD_PAYLOAD


async def test_the_pages_together_keep_to_the_cap_of_one_body():
    async with provider_against(paging(["x" * 1000] * 50, 1), "instabase") as (http, server):
        http.body_bytes_max = 10_000
        with pytest.raises(ProviderFailure, match="too large"):
            await INSTABASE.fetch_output(http, RUN)
    assert len(server.seen) == 10


async def test_the_organization_goes_into_its_header():
    async with provider_against(answering({"runs": []}), "instabase", ib_context="my-org") as (http, server):
        await INSTABASE.check(http)
    sent = server.seen[0]
    assert (sent.target, sent.headers["ib-context"]) == ("/v2/apps/runs?limit=1", "my-org")
    assert sent.headers["authorization"] == f"Bearer {KEY}"


async def test_without_an_organization_there_is_no_such_header():
    async with provider_against(answering({"runs": []}), "instabase") as (http, server):
        await INSTABASE.check(http)
    assert "ib-context" not in server.seen[0].headers


async def test_a_trigger_runs_the_deployment_with_the_inputs_as_its_body():
    async with provider_against(answering({"id": RUN, "status": "RUNNING"}, status=202), "instabase") as (http, server):
        got = await INSTABASE.trigger(http, "dep/1", {"batch_id": 4523}, {"tags": ["a"]})
    assert got == Triggered(RUN)
    sent = server.seen[0]
    assert (sent.method, sent.target) == ("POST", "/v2/apps/deployments/dep%2F1/runs")
    assert sent.body == {"batch_id": 4523, "tags": ["a"]}


@pytest.mark.parametrize("inputs", [None, [], "batch"])
async def test_inputs_that_are_no_object_are_refused_before_asking(inputs):
    async with provider_against(answering({}), "instabase") as (http, server):
        with pytest.raises(ProviderRefused, match="batch_id"):
            await INSTABASE.trigger(http, "dep", inputs, {})
    assert server.seen == []


async def test_there_is_no_cancel():
    async with provider_against(answering({}), "instabase") as (http, _):
        with pytest.raises(Unsupported):
            await INSTABASE.cancel(http, RUN, None)
