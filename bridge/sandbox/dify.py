"""A fake Dify app: run detail, streaming and blocking runs, stop and logs.

Shapes: `new` (inputs JSON text, outputs an object), `old` (outputs JSON text or null, a missing run is a 200
full of nulls) and `rfc822` (old, with e-mail dates, as one server generation sent them).
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import datetime
from email.utils import format_datetime
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.fake_provider import FakeProvider, json_object, object_or_empty
from bridge.sandbox.http_server import whole_number
from bridge.sandbox.scenarios import RunSnapshot
from bridge.sandbox.state import SandboxRun

ERRORS: Final = {
    400: ("invalid_param", "Invalid parameter."),
    401: ("unauthorized", "Access token is invalid"),
    403: ("forbidden", "The app's API service has been disabled."),
    404: ("not_found", "Workflow run not found."),
    429: ("too_many_requests", "Too many requests. Please try again later."),
}
NULL_RUN: Final[dict[str, Json]] = {
    "id": None, "workflow_id": None, "status": None, "inputs": None, "outputs": None, "error": None,
    "total_steps": 0, "total_tokens": 0, "created_at": None, "finished_at": None, "elapsed_time": None,
}  # fmt: skip
STOP_REASON: Final = "Workflow run was stopped by user"
LOG_STATUSES: Final = frozenset({"succeeded", "failed", "stopped"})
PING_S: Final = 10.0
CHECK_S: Final = 0.05  # between two checks of a run whose clock may be moved by hand
_WITH_ERROR: Final = (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.PARTIAL)


class Dify(FakeProvider):
    """A Dify app; its key gives access to one app only."""

    name = "dify"
    words: ClassVar = {
        RunStatus.QUEUED: "scheduled",
        RunStatus.RUNNING: "running",
        RunStatus.WAITING: "paused",
        RunStatus.SUCCEEDED: "succeeded",
        RunStatus.PARTIAL: "partial-succeeded",
        RunStatus.FAILED: "failed",
        RunStatus.CANCELLED: "stopped",
    }
    shapes: ClassVar = {"new": "new", "old": "old", "rfc822": "rfc822"}

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post("/workflows/run", self.trigger),
            web.post("/workflows/{workflow_id}/run", self.trigger),
            web.get("/workflows/run/{run_id}", self.show),
            web.post("/workflows/tasks/{task_id}/stop", self.stop),
            web.get("/workflows/logs", self.list_logs),
        ]

    def refuse(self, status: int, message: str | None = None) -> web.Response:
        """An error: code, message and status."""
        code, text = ERRORS.get(status, ("internal_server_error", "Internal Server Error"))
        headers = {"X-Version": "1.11.0", "X-Env": "SANDBOX"}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="api"'
        return web.json_response(
            {"code": code, "message": message or text, "status": status}, status=status, headers=headers
        )

    def new_run_id(self) -> str:
        """A UUID."""
        return str(uuid.uuid4())

    async def show(self, request: web.Request) -> web.Response:
        """One run."""
        run_id = request.match_info["run_id"]
        run, known = self.state.find(self.name, run_id), self.state.get(self.name, run_id)
        if run:
            return web.json_response(self.body(run), headers={"X-Version": "1.11.0", "X-Env": "SANDBOX"})
        if known.shape != "new" if known else self.state.dify_missing_is_null:
            return web.json_response(NULL_RUN)
        return self.refuse(404)

    async def trigger(self, request: web.Request) -> web.StreamResponse:
        """Run the workflow: stream its events, or with `blocking` answer once it is settled or paused."""
        body = await json_object(request) or {}
        if not isinstance(body.get("inputs"), dict) or not isinstance(body.get("user"), str):
            return self.refuse(400, "inputs and user are required in the request body.")
        inputs = {**object_or_empty(body["inputs"]), "sys.user_id": body["user"]}
        run = self.start_triggered(request.match_info.get("workflow_id"), inputs)
        if body.get("response_mode") == "blocking":
            await self.until_it_rests(run)
            data = {key: value for key, value in self.body(self.current(run)).items() if key != "inputs"}
            return web.json_response({"task_id": run.task_id, "workflow_run_id": run.id, "data": data})
        return await _stream(request, self, run)

    async def stop(self, request: web.Request) -> web.Response:
        """Stop by task id; answers success for an unknown task, too."""
        body = await json_object(request) or {}
        if not isinstance(body.get("user"), str):
            return self.refuse(400, "user is required in the request body.")
        task_id = request.match_info["task_id"]
        runs = [run for run in self.state.list_runs(self.name) if run.task_id == task_id]
        for run in runs:
            self.state.cancel(run, self.words[RunStatus.CANCELLED], STOP_REASON)
        return web.json_response({"result": "success"})

    async def list_logs(self, request: web.Request) -> web.Response:
        """The log, newest first; an item has an id of its own and a summary of the run."""
        page, limit = whole_number(request.query.get("page"), 1), whole_number(request.query.get("limit"), 20)
        status = request.query.get("status")
        if not page or not limit or limit > 100 or (status and status not in LOG_STATUSES):
            return self.refuse(400, "page is 1-99999, limit 1-100, status one of succeeded, failed, stopped.")
        items = [
            item for run in self.state.list_runs(self.name) if status in (None, (item := self.body(run))["status"])
        ]
        start = (page - 1) * limit
        return web.json_response(
            {
                "page": page,
                "limit": limit,
                "total": len(items),
                "has_more": start + limit < len(items),
                "data": [_log_item(item) for item in items[start : start + limit]],
            }
        )

    async def until_it_rests(self, run: SandboxRun) -> None:
        """Wait until the run is settled or paused."""
        while not self.rests(run) and not self.state.is_closing:  # noqa: ASYNC110 - a manual clock wakes no waiter
            await asyncio.sleep(CHECK_S)

    def current(self, run: SandboxRun) -> SandboxRun:
        """The run as it is stored now: a stop replaces it."""
        return self.state.get(self.name, run.id) or run

    def rests(self, run: SandboxRun) -> bool:
        """Whether the run is settled or paused."""
        status = self.state.snapshot(self.current(run)).status
        return status.is_settled or status is RunStatus.WAITING

    def body(self, run: SandboxRun) -> dict[str, Json]:
        """The run detail in the shape of the run."""
        snapshot = self.state.snapshot(run)
        error = run.scenario.error if snapshot.status in _WITH_ERROR else None
        return {
            "id": run.id,
            "workflow_id": run.workflow_id,
            "status": snapshot.word,
            "inputs": json.dumps(run.inputs, ensure_ascii=False),
            "outputs": _outputs(run, snapshot),
            "error": error.message if error else None,
            "total_steps": snapshot.completed,
            "total_tokens": 50 * snapshot.completed,
            "created_at": _time(run, run.created_at),
            "finished_at": _time(run, run.instant(snapshot.finished_after_s)),
            "elapsed_time": round(self._elapsed_s(run, snapshot), 6),
        }

    def _elapsed_s(self, run: SandboxRun, snapshot: RunSnapshot) -> float:
        return self.state.age_s(run) if snapshot.finished_after_s is None else snapshot.finished_after_s


def _outputs(run: SandboxRun, snapshot: RunSnapshot) -> Json:
    has_some = snapshot.status in (RunStatus.SUCCEEDED, RunStatus.PARTIAL) and run.scenario.output is not None
    output: Json = run.scenario.output if isinstance(run.scenario.output, dict) else {"result": run.scenario.output}
    if run.shape == "new":
        return output if has_some else {}
    return json.dumps(output, ensure_ascii=False) if has_some else None


def _time(run: SandboxRun, instant: datetime | None) -> Json:
    if instant is None:
        return None
    return format_datetime(instant) if run.shape == "rfc822" else int(instant.timestamp())


def _log_item(body: dict[str, Json]) -> dict[str, Json]:
    summary = {key: body[key] for key in ("id", "status", "error", "elapsed_time", "total_tokens", "total_steps")}
    times = {key: body[key] for key in ("created_at", "finished_at")}
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, str(body["id"]))),
        "workflow_run": {"version": "1", **summary, **times, "exceptions_count": 0, "triggered_from": "app-run"},
        "created_from": "service-api",
        "created_by_role": "end_user",
        "created_by_account": None,
        "created_by_end_user": {"id": str(uuid.NAMESPACE_OID), "type": "service_api", "session_id": "sandbox"},
        "created_at": body["created_at"],
        "details": None,
    }


async def _stream(request: web.Request, dify: Dify, run: SandboxRun) -> web.StreamResponse:
    """Send the events of a run until it rests; it goes on if the client disconnects."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    first = {key: dify.body(run)[key] for key in ("id", "workflow_id", "created_at")}
    await _send(response, run, "workflow_started", {**first, "inputs": run.inputs, "reason": "initial"})
    sent, pinged_s = 0, time.monotonic()
    while True:
        current = dify.current(run)
        sent = await _send_nodes(response, current, sent, dify.state.snapshot(current).completed)
        if dify.rests(run) or dify.state.is_closing:
            break
        if time.monotonic() - pinged_s >= PING_S:
            await response.write(b"event: ping\n\n")
            pinged_s = time.monotonic()
        await asyncio.sleep(CHECK_S)
    body = dify.body(dify.current(run))
    last = "workflow_paused" if body["status"] == dify.words[RunStatus.WAITING] else "workflow_finished"
    await _send(response, run, last, {key: value for key, value in body.items() if key != "inputs"})
    await response.write_eof()
    return response


async def _send_nodes(response: web.StreamResponse, run: SandboxRun, sent: int, completed: int) -> int:
    for index in range(sent, completed):
        node: dict[str, Json] = {
            "id": f"{run.id}-{index}",
            "node_id": str(index),
            "title": f"Node {index}",
            "index": index,
        }
        await _send(response, run, "node_started", node)
        await _send(response, run, "node_finished", {**node, "status": "succeeded"})
    return max(sent, completed)


async def _send(response: web.StreamResponse, run: SandboxRun, event: str, data: dict[str, Json]) -> None:
    message = {"event": event, "task_id": run.task_id, "workflow_run_id": run.id, "data": data}
    await response.write(b"data: " + json.dumps(message, ensure_ascii=False).encode() + b"\n\n")
