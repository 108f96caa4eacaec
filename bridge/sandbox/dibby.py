"""A fake Dibby: trigger and read runs. The error bodies are a guess, because its documentation shows none."""

from __future__ import annotations

import secrets
import uuid
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.fake_provider import FakeProvider, json_object, object_or_empty
from bridge.sandbox.state import SandboxRun

MESSAGES: Final = {401: "Invalid or missing token", 404: "Run not found", 429: "Too many requests"}


class Dibby(FakeProvider):
    """POST /runs and GET /runs/{id}; there is no list, no cancel, and no word for waiting."""

    name = "dibby"
    words: ClassVar = {
        RunStatus.QUEUED: "PENDING",
        RunStatus.RUNNING: "RUNNING",
        RunStatus.WAITING: "RUNNING",  # its human validation step shows only as progress that stops
        RunStatus.SUCCEEDED: "FINISHED",
        RunStatus.FAILED: "FAILED",
    }
    rare_words: ClassVar = {"RUNNING": RunStatus.RUNNING}

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.post("/runs", self.trigger), web.get("/runs/{run_id}", self.show)]

    def refuse(self, status: int, message: str | None = None) -> web.Response:
        """An error in the assumed shape."""
        return web.json_response({"error": message or MESSAGES.get(status, "Request failed")}, status=status)

    def new_run_id(self) -> str:
        """`run_` and random letters."""
        return f"run_{secrets.token_hex(8)}"

    def new_workflow_id(self) -> str:
        """A UUID, as in the addresses of its workflow pages."""
        return str(uuid.uuid4())

    async def trigger(self, request: web.Request) -> web.Response:
        """Start a run. Both spellings of the key in its documentation are accepted."""
        body = await json_object(request) or {}
        workflow_id = body.get("workflowId") or body.get("worfklowId")
        if not isinstance(workflow_id, str):
            return self.refuse(400, "workflowId is required")
        run = self.start_triggered(workflow_id, object_or_empty(body.get("inputs")))
        return web.json_response(self.body(run), status=201)

    def body(self, run: SandboxRun) -> dict[str, Json]:
        """The run object; only a failed run has `error`, and `createdAt` is its only time."""
        snapshot = self.state.snapshot(run)
        body: dict[str, Json] = {
            "id": run.id,
            "versionName": "1.0",
            "status": snapshot.word,
            "createdAt": run.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "steps": run.scenario.parts,
            "stepsCompleted": snapshot.completed,
            "output": run.scenario.output if snapshot.status is RunStatus.SUCCEEDED else None,
        }
        if snapshot.status is RunStatus.FAILED and run.scenario.error:
            body["error"] = {"message": run.scenario.error.message, "step": run.scenario.error.step}
        return body
