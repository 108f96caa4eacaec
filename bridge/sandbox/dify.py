"""A fake Dify app: run detail, streaming and blocking runs, stop and logs.

Shapes: `new` (inputs JSON text, outputs an object), `old` (outputs JSON text or null, a missing run is a 200
full of nulls) and `rfc822` (old, with times as e-mail dates, as one server generation told them).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import datetime
from email.utils import format_datetime
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.dify_stream import LOOK_S, send_events
from bridge.sandbox.fake_provider import Dialect, json_object, object_or_empty, whole_number
from bridge.sandbox.scenarios import Moment
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


class Dify(Dialect):
    """One app behind one key."""

    name = "dify"
    spoken: ClassVar = {
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
        """Method, path and handler of everything it answers."""
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
        run, known = self.world.find(self.name, run_id), self.world.known(self.name, run_id)
        if run:
            return web.json_response(self.body(run), headers={"X-Version": "1.11.0", "X-Env": "SANDBOX"})
        if known.shape != "new" if known else self.world.dify_missing_is_null:
            return web.json_response(NULL_RUN)
        return self.refuse(404)

    async def trigger(self, request: web.Request) -> web.StreamResponse:
        """Run the workflow; streams its events, or with `blocking` answers once it is over or paused."""
        body = await json_object(request) or {}
        if not isinstance(body.get("inputs"), dict) or not isinstance(body.get("user"), str):
            return self.refuse(400, "inputs and user are required in the request body.")
        inputs = {**object_or_empty(body["inputs"]), "sys.user_id": body["user"]}
        run = self.start_triggered(request.match_info.get("workflow_id"), inputs)
        if body.get("response_mode") == "blocking":
            await self.until_it_rests(run)
            data = {key: value for key, value in self.body(self.current(run)).items() if key != "inputs"}
            return web.json_response({"task_id": run.task_id, "workflow_run_id": run.id, "data": data})
        return await send_events(request, self, run)

    async def stop(self, request: web.Request) -> web.Response:
        """Stop by task id; says success whether or not there is such a task."""
        body = await json_object(request) or {}
        if not isinstance(body.get("user"), str):
            return self.refuse(400, "user is required in the request body.")
        task_id = request.match_info["task_id"]
        runs = [run for run in self.world.listed(self.name) if run.task_id == task_id]
        for run in runs:
            self.world.cancel(run, self.spoken[RunStatus.CANCELLED], STOP_REASON)
        return web.json_response({"result": "success"})

    async def list_logs(self, request: web.Request) -> web.Response:
        """The log, newest first; its items have ids of their own and hold a summary of the run."""
        page, limit = whole_number(request.query.get("page"), 1), whole_number(request.query.get("limit"), 20)
        status = request.query.get("status")
        if not page or not limit or limit > 100 or (status and status not in LOG_STATUSES):
            return self.refuse(400, "page is 1-99999, limit 1-100, status one of succeeded, failed, stopped.")
        items = [item for run in self.world.listed(self.name) if status in (None, (item := self.body(run))["status"])]
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

    def current(self, run: SandboxRun) -> SandboxRun:
        """The run as the world has it now (a stop replaces it)."""
        return self.world.known(self.name, run.id) or run

    async def until_it_rests(self, run: SandboxRun) -> None:
        """Wait until the run is over or paused; looks often, because the clock may be one moved by hand."""
        while not self.rests(run) and not self.world.is_closing:  # noqa: ASYNC110 - nothing rings when a clock moves
            await asyncio.sleep(LOOK_S)

    def rests(self, run: SandboxRun) -> bool:
        """Whether a caller who waits is let go."""
        status = self.world.moment(self.current(run)).status
        return status.is_settled or status is RunStatus.WAITING

    def body(self, run: SandboxRun) -> dict[str, Json]:
        """The run detail in the shape the run asks for."""
        moment = self.world.moment(run)
        error = run.life.error if moment.status in _TELLS_ERROR else None
        return {
            "id": run.id,
            "workflow_id": run.workflow_id,
            "status": moment.word,
            "inputs": json.dumps(run.inputs, ensure_ascii=False),
            "outputs": _outputs(run, moment),
            "error": error.message if error else None,
            "total_steps": moment.completed,
            "total_tokens": 50 * moment.completed,
            "created_at": _time(run, run.born_at),
            "finished_at": _time(run, run.instant(moment.finished_after_s)),
            "elapsed_time": round(self._elapsed_s(run, moment), 6),
        }

    def _elapsed_s(self, run: SandboxRun, moment: Moment) -> float:
        return self.world.age_s(run) if moment.finished_after_s is None else moment.finished_after_s


_TELLS_ERROR: Final = (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.PARTIAL)


def _outputs(run: SandboxRun, moment: Moment) -> Json:
    has_some = moment.status in (RunStatus.SUCCEEDED, RunStatus.PARTIAL) and run.life.output is not None
    output: Json = run.life.output if isinstance(run.life.output, dict) else {"result": run.life.output}
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
