"""The event stream of a streaming Dify run, from workflow_started to workflow_finished or workflow_paused."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.state import SandboxRun

if TYPE_CHECKING:
    from bridge.sandbox.dify import Dify

PING_S: Final = 10.0
LOOK_S: Final = 0.05


async def send_events(request: web.Request, dify: Dify, run: SandboxRun) -> web.StreamResponse:
    """Answer with the stream. The run goes on when the caller drops the connection."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    first = {key: dify.body(run)[key] for key in ("id", "workflow_id", "created_at")}
    await _send(response, run, "workflow_started", {**first, "inputs": run.inputs, "reason": "initial"})
    told, pinged_s = 0, time.monotonic()
    while True:
        current = dify.current(run)
        told = await _tell_nodes(response, current, told, dify.world.moment(current).completed)
        if dify.rests(run) or dify.world.is_closing:
            break
        if time.monotonic() - pinged_s >= PING_S:
            await response.write(b"event: ping\n\n")
            pinged_s = time.monotonic()
        await asyncio.sleep(LOOK_S)
    body = dify.body(dify.current(run))
    last = "workflow_paused" if body["status"] == dify.spoken[RunStatus.WAITING] else "workflow_finished"
    await _send(response, run, last, {key: value for key, value in body.items() if key != "inputs"})
    await response.write_eof()
    return response


async def _tell_nodes(response: web.StreamResponse, run: SandboxRun, told: int, completed: int) -> int:
    for index in range(told, completed):
        node: dict[str, Json] = {
            "id": f"{run.id}-{index}",
            "node_id": str(index),
            "title": f"Node {index}",
            "index": index,
        }
        await _send(response, run, "node_started", node)
        await _send(response, run, "node_finished", {**node, "status": "succeeded"})
    return max(told, completed)


async def _send(response: web.StreamResponse, run: SandboxRun, event: str, data: dict[str, Json]) -> None:
    message = {"event": event, "task_id": run.task_id, "workflow_run_id": run.id, "data": data}
    await response.write(b"data: " + json.dumps(message, ensure_ascii=False).encode() + b"\n\n")
