from __future__ import annotations

import pytest

from bridge.domain.errors import ProviderRefused
from bridge.providers import REGISTRY
from bridge.providers.base import Triggered
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
async def test_a_wish_to_cancel_that_was_heard_is_enough(word):
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
