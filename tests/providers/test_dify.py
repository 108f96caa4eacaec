from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from bridge.domain.errors import ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.providers import REGISTRY
from bridge.providers.base import Triggered
from bridge.providers.http import ProviderFailure
from tests.support.foreign_server import answering
from tests.support.provider_http import KEY, provider_against

DIFY = REGISTRY["dify"]
RUN, TASK = "fb47b2e6-5e43-4f90-be01-d5c5a088d156", "task-1"
STARTED = {"event": "workflow_started", "task_id": TASK, "workflow_run_id": RUN, "data": {"id": RUN}}


def streaming(*pieces: bytes, left: asyncio.Event | None = None):
    """A handler that sends `pieces` as they are; with `left` it then waits for the client to go."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        while left is not None and request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.01)
        if left is not None:
            left.set()
        return response

    return answer


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def test_a_trigger_answers_with_the_runs_id_and_listens_to_the_end():
    """Older servers write the run's final state from the stream and leave it `running` when no client listens."""
    go_on, listened = asyncio.Event(), asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in (b"event: ping\n\n", b": note\n\n", event(STARTED)[:30], event(STARTED)[30:]):
            await response.write(piece)
        await go_on.wait()
        await response.write(event({"event": "workflow_finished"}))
        if request.transport is not None and not request.transport.is_closing():
            listened.set()
        return response

    async with provider_against(stream, "dify", suffix="/v1") as (http, server):
        assert await DIFY.trigger(http, "ignored", {"query": "x"}, {"files": []}) == Triggered(RUN, TASK)
        go_on.set()
        await asyncio.wait_for(listened.wait(), 60)
    sent = server.seen[0]
    assert (sent.method, sent.target) == ("POST", "/v1/workflows/run")
    assert sent.body == {"inputs": {"query": "x"}, "response_mode": "streaming", "user": "runbridge", "files": []}
    assert sent.headers["authorization"] == f"Bearer {KEY}"


async def test_an_error_event_instead_of_a_start_is_a_refusal():
    error = {"event": "error", "code": "invalid_param", "message": "query is required", "status": 400}
    async with provider_against(streaming(event(error)), "dify") as (http, _):
        with pytest.raises(ProviderRefused, match="query is required"):
            await DIFY.trigger(http, "", {}, {})


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"event: ping\n\n",),
        (b"data: {oops\n\n",),
        (b"data: [1]\n\n",),
        (event({**STARTED, "workflow_run_id": None}),),
    ],
    ids=["empty", "ping", "garbage", "list", "no id"],
)
async def test_a_stream_that_shows_no_run_id_is_a_failure(pieces):
    async with provider_against(streaming(*pieces), "dify") as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await DIFY.trigger(http, "", {}, {})
    assert caught.value.failed.kind is FailureKind.BAD_PAYLOAD


async def test_a_stream_that_only_pings_ends_at_the_deadline():
    left = asyncio.Event()
    async with provider_against(streaming(b"event: ping\n\n", left=left), "dify", timeout_s=0.3) as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await DIFY.trigger(http, "", {}, {})
        await asyncio.wait_for(left.wait(), 60)
    assert caught.value.failed.kind is FailureKind.TIMEOUT


async def test_a_used_up_plan_is_a_refusal_and_too_many_at_once_is_not():
    """Both come as 429; only one of them goes away by waiting."""
    quota = answering({"code": "rate_limit_error", "message": "Plan quota used up"}, status=429)
    async with provider_against(quota, "dify") as (http, _):
        with pytest.raises(ProviderRefused, match="Plan quota"):
            await DIFY.trigger(http, "", {}, {})
    busy = answering({"code": "too_many_requests", "message": "busy"}, status=429)
    async with provider_against(busy, "dify") as (http, _):
        with pytest.raises(ProviderFailure) as caught:
            await DIFY.trigger(http, "", {}, {})
    assert caught.value.failed.kind is FailureKind.THROTTLED


async def test_cancelling_takes_the_task_id_and_the_same_user():
    async with provider_against(answering({"result": "success"}), "dify") as (http, server):
        await DIFY.cancel(http, RUN, "task/1")
    sent = server.seen[0]
    assert (sent.method, sent.target, sent.body) == ("POST", "/workflows/tasks/task%2F1/stop", {"user": "runbridge"})


async def test_a_run_without_a_task_id_cannot_be_cancelled():
    async with provider_against(answering({}), "dify") as (http, server):
        with pytest.raises(Unsupported, match="task id"):
            await DIFY.cancel(http, RUN, None)
    assert server.seen == []


async def test_a_stop_that_is_declined_is_a_refusal():
    async with provider_against(answering({"message": "gone"}, status=404), "dify") as (http, _):
        with pytest.raises(ProviderRefused, match="gone"):
            await DIFY.cancel(http, RUN, TASK)


async def test_a_check_reads_one_line_of_the_log():
    async with provider_against(answering({"data": []}), "dify") as (http, server):
        await DIFY.check(http)
    assert server.seen[0].target == "/workflows/logs?limit=1"


@pytest.mark.parametrize(
    "run_id", ["run_1", RUN[:-1], RUN + "0", RUN.replace("-", ""), f"{RUN}\n", RUN.replace("f", "g")]
)
def test_only_a_uuid_can_be_a_run_id(run_id):
    assert "UUID" in (DIFY.check_run_id(run_id) or "")


def test_the_letters_of_a_uuid_may_be_large():
    assert DIFY.check_run_id(RUN.upper()) is None
