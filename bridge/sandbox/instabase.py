"""A fake Instabase AI Hub: runs with exact nanoseconds, their list, paged results, deletion."""

from __future__ import annotations

import uuid
import zlib
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.fake_provider import FakeProvider, json_object, object_or_empty
from bridge.sandbox.http_server import whole_number
from bridge.sandbox.state import SandboxRun

MESSAGES: Final = {
    401: "Unauthorized: the token or IB-Context is not valid.",
    403: "Not enough consumption units.",
    404: "Run not found.",
    429: "Too many requests.",
}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LIST_WINDOW_S: Final = 86400
LIST_LIMIT: Final = 100  # the real default is not documented
SUMMARY_KEYS: Final = ("id", "status", "start_timestamp", "app_id", "deployment_id")


class Instabase(FakeProvider):
    """Runs start at RUNNING, because there is no word for queued. Only its user interface can cancel."""

    name = "instabase"
    words: ClassVar = {
        RunStatus.QUEUED: "RUNNING",
        RunStatus.RUNNING: "RUNNING",
        RunStatus.WAITING: "STOPPED_AT_CHECKPOINT",
        RunStatus.SUCCEEDED: "COMPLETE",
        RunStatus.FAILED: "FAILED",
        RunStatus.CANCELLED: "CANCELLED",
    }
    rare_words: ClassVar = {"PAUSED": RunStatus.WAITING}

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post("/v2/apps/runs", self.trigger),
            web.post("/v2/apps/deployments/{deployment_id}/runs", self.trigger),
            web.get("/v2/apps/runs", self.list_runs),
            web.get("/v2/apps/runs/{run_id}", self.show),
            web.get("/v2/apps/runs/{run_id}/results", self.results),
            web.delete("/v2/apps/runs/{run_id}", self.delete),
        ]

    def refuse(self, status: int, message: str | None = None) -> web.Response:
        """An error with only a message."""
        return web.json_response({"message": message or MESSAGES.get(status, "Try again later.")}, status=status)

    def new_run_id(self) -> str:
        """A UUID."""
        return str(uuid.uuid4())

    def is_authorized(self, request: web.Request) -> bool:
        """Whether the key and IB-Context match. Without IB-Context the request sees the empty community account."""
        given = request.headers.get("IB-Context", self.state.ib_context)
        return super().is_authorized(request) and (self.state.ib_context is None or given == self.state.ib_context)

    async def trigger(self, request: web.Request) -> web.Response:
        """Run an app (200) or a deployment (202)."""
        body, deployment_id = await json_object(request) or {}, request.match_info.get("deployment_id")
        app = deployment_id or body.get("app_id") or body.get("app_name")
        if not isinstance(app, str) or not ({"batch_id", "input_dir", "manual_upstream_integration"} & body.keys()):
            return self.refuse(400, "app_name or app_id, and batch_id or input_dir are required.")
        settings = object_or_empty(body.get("settings"))
        run = self.start_triggered(app, {**settings, "batch_id": body.get("batch_id"), "tags": body.get("tags")})
        return web.json_response(self.body(run), status=202 if deployment_id else 200)

    async def list_runs(self, request: web.Request) -> web.Response:
        """Runs of the last 24 hours unless the request sets the range (Unix seconds); no total, no cursor."""
        query, now_s = request.query, int(self.state.clock.now().timestamp())
        limit, offset = whole_number(query.get("limit"), LIST_LIMIT), whole_number(query.get("offset"), 0)
        from_s = whole_number(query.get("from_timestamp"), now_s - LIST_WINDOW_S)
        to_s = whole_number(query.get("to_timestamp"), now_s + 1)
        if limit is None or offset is None or from_s is None or to_s is None:
            return self.refuse(400, "limit, offset, from_timestamp and to_timestamp are whole numbers.")
        words = query.getall("status", [])
        runs = [
            self.body(run)
            for run in (self.state.list_runs(self.name) if self._is_in_context(request) else [])
            if from_s <= run.created_at.timestamp() <= to_s
            and query.get("deployment_id", run.workflow_id) == run.workflow_id
            and query.get("app_id", run.workflow_id) == run.workflow_id
            and query.get("run_id", run.id) == run.id
            and (not words or self.state.snapshot(run).word in words)
        ]
        if query.get("order") == "ASCENDING":
            runs.reverse()
        if self.state.list_is_summary:
            runs = [{key: run[key] for key in SUMMARY_KEYS} for run in runs]
        return web.json_response({"runs": runs[offset : offset + limit]})

    async def results(self, request: web.Request) -> web.Response:
        """One page of a completed run's results."""
        run, offset = self.find(request), whole_number(request.query.get("file_offset"), 0)
        if run is None or offset is None:
            return self.refuse(404 if run is None else 400)
        snapshot = self.state.snapshot(run)
        if snapshot.status is not RunStatus.SUCCEEDED:
            return self.refuse(400, "The run has not completed.")
        files, page = _files(run), self.state.results_page_files
        body = self.body(run)
        shown: dict[str, Json] = {key: body[key] for key in ("id", "status", "start_timestamp", "finish_timestamp")}
        shown |= {"message": None, "batch_id": str(body["batch_id"]), "case_info": None, "keys": None}
        shown |= {"review_completed": False, "files": files[offset : offset + page]}
        return web.json_response({**shown, "has_more": offset + page < len(files)})

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a run; the response names the jobs that do it."""
        run = self.find(request)
        if run is None:
            return self.refuse(404)
        self.state.remove(run)
        jobs = ("delete_input_dir_job_id", "delete_output_dir_job_id", "delete_log_dir_job_id")
        return web.json_response({job: str(uuid.uuid4()) for job in jobs}, status=202)

    def body(self, run: SandboxRun) -> dict[str, Json]:
        """The run object."""
        snapshot = self.state.snapshot(run)
        has_error = snapshot.status in (RunStatus.FAILED, RunStatus.CANCELLED)
        batch_id = run.inputs.get("batch_id") or 1000 + zlib.crc32(run.id.encode()) % 9000
        return {
            "id": run.id,
            "status": snapshot.word,
            "start_timestamp": _nanoseconds(run, run.created_at),
            "finish_timestamp": _nanoseconds(run, run.instant(snapshot.finished_after_s)),
            "msg": run.scenario.error.message if has_error and run.scenario.error else None,
            "batch_id": batch_id,
            "input_dir": f"/data/input/batch_{batch_id}",
            "app_id": run.workflow_id,
            "deployment_id": run.workflow_id,
            "tags": run.inputs.get("tags"),
        }

    def _is_in_context(self, request: web.Request) -> bool:
        return self.state.ib_context is None or request.headers.get("IB-Context") == self.state.ib_context

    def find(self, request: web.Request) -> SandboxRun | None:
        """The run, if the request is in its context."""
        return super().find(request) if self._is_in_context(request) else None


def _nanoseconds(run: SandboxRun, instant: datetime | None) -> int | None:
    """Unix nanoseconds; the last three digits, which a datetime lacks, come from the run's id."""
    if instant is None:
        return None
    return (instant - EPOCH) // timedelta(microseconds=1) * 1000 + zlib.crc32(run.id.encode()) % 1000


def _files(run: SandboxRun) -> list[Json]:
    """The `files` of the scenario's output, or one file with one document whose fields are the output's entries."""
    output = run.scenario.output
    if isinstance(output, dict) and isinstance(output.get("files"), list):
        files = output["files"]
        return files if isinstance(files, list) else []
    fields: list[Json] = [
        {"field_name": name, "value": value, "type": "TEXT", "error_msg": None}
        for name, value in (output.items() if isinstance(output, dict) else [("result", output)])
    ]
    document: Json = {"class_name": "invoice", "page_numbers": [0], "fields": fields, "validations": None}
    return [{"original_file_name": "invoice.pdf", "documents": [document]}]
