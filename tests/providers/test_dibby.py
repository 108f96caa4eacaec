from __future__ import annotations

import pytest

from bridge.domain.errors import Unsupported
from bridge.providers import REGISTRY
from bridge.providers.base import Triggered
from tests.support.foreign_server import answering
from tests.support.provider_http import KEY, provider_against

DIBBY = REGISTRY["dibby"]
STARTED = {"id": "run_abc123", "status": "PENDING"}


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_a_trigger_sends_workflow_and_inputs_and_takes_any_success(status):
    """The documentation does not say which status a trigger answers with."""
    async with provider_against(answering(STARTED, status=status), "dibby") as (http, server):
        assert await DIBBY.trigger(http, "wf-1", {"document": "data:,x"}, {}) == Triggered("run_abc123")
    sent = server.seen[0]
    assert (sent.method, sent.target) == ("POST", "/runs")
    assert sent.body == {"workflowId": "wf-1", "inputs": {"document": "data:,x"}}
    assert sent.headers["authorization"] == f"Bearer {KEY}"


async def test_the_workflow_key_can_be_renamed():
    """Half of the documentation spells it with a typing error, and the server may too."""
    async with provider_against(answering(STARTED), "dibby", workflow_key="worfklowId") as (http, server):
        await DIBBY.trigger(http, "wf-1", {}, {"note": "n"})
    assert server.seen[0].body == {"worfklowId": "wf-1", "inputs": {}, "note": "n"}


async def test_an_id_that_is_a_number_becomes_text():
    async with provider_against(answering({"id": 17}), "dibby") as (http, _):
        assert await DIBBY.trigger(http, "wf-1", {}, {}) == Triggered("17")


@pytest.mark.parametrize("status", [200, 400, 404, 422])
async def test_a_check_asks_for_a_run_that_cannot_exist(status):
    """No call tells about the key alone: that a wrong key is refused proves it."""
    async with provider_against(answering({"error": "no"}, status=status), "dibby") as (http, server):
        await DIBBY.check(http)
    assert (server.seen[0].method, server.seen[0].target) == ("GET", "/runs/runbridge-connection-check")


async def test_there_is_no_cancel_and_no_separate_output():
    async with provider_against(answering({}), "dibby") as (http, server):
        with pytest.raises(Unsupported):
            await DIBBY.cancel(http, "run_abc123", None)
        with pytest.raises(Unsupported):
            await DIBBY.fetch_output(http, "run_abc123")
    assert server.seen == []
