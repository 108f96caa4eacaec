"""A fake Retab: runs, their list, steps and cancel, as the official SDK 0.0.160 reads them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.ids import new_id
from bridge.domain.run import Json, RunStatus
from bridge.domain.timestamps import format_instant
from bridge.sandbox.fake_provider import FakeProvider, json_object, object_or_empty
from bridge.sandbox.http_server import whole_number
from bridge.sandbox.retab_shapes import flat_steps, run_body, step_bodies
from bridge.sandbox.state import SandboxRun

MESSAGES: Final = {401: "Invalid API key", 404: "Workflow run not found", 429: "Too many requests"}
PAGE_DEFAULT, PAGE_MAX = 20, 100
SUMMARY_KEYS: Final = ("id", "workflow_id", "lifecycle", "status")


class Retab(FakeProvider):
    """Generation c unless a run has another shape; accepts `Bearer` and the older `Api-Key`."""

    name = "retab"
    words: ClassVar = {
        RunStatus.QUEUED: "pending",
        RunStatus.RUNNING: "running",
        RunStatus.WAITING: "awaiting_review",
        RunStatus.SUCCEEDED: "completed",
        RunStatus.FAILED: "error",
        RunStatus.CANCELLED: "cancelled",
    }
    rare_words: ClassVar = {
        "queued": RunStatus.QUEUED,
        "failed": RunStatus.FAILED,
        "waiting_for_human": RunStatus.WAITING,
    }
    shapes: ClassVar = {"c": "c", "c-nested": "c-nested", "b": "b", "a": "a", "old": "a", "new": "c"}

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        runs = "/v1/workflows/runs"
        return [
            web.post(runs, self.trigger),
            web.get(runs, self.list_runs),
            web.get(runs + "/{run_id}", self.show),
            web.delete(runs + "/{run_id}", self.delete),
            web.post(runs + "/{run_id}/cancel", self.cancel),
            web.get(runs + "/{run_id}/steps", self.list_flat_steps),
            web.get("/v1/workflows/steps", self.list_steps),
            web.get("/v1/workflows/steps/{step_id}", self.show_step),
        ]

    def refuse(self, status: int, message: str | None = None) -> web.Response:
        """An error: `{"detail": text}`, or the structured form for a 5xx."""
        text = message or MESSAGES.get(status, "Request failed")
        detail: Json = text
        if status >= 500:
            detail = {"code": "HTTP_EXCEPTION", "message": text, "details": {"error": text}}
        return web.json_response({"detail": detail}, status=status, headers={"x-request-id": secrets.token_hex(8)})

    def new_run_id(self) -> str:
        """`run_` and a ULID."""
        return _ulid("run")

    def new_workflow_id(self) -> str:
        """`wf_` and a ULID."""
        return _ulid("wf")

    def is_authorized(self, request: web.Request) -> bool:
        """Whether either header has the key."""
        given = request.headers.get("Api-Key", "").encode()
        return secrets.compare_digest(given, self.state.api_key.encode()) or super().is_authorized(request)

    async def trigger(self, request: web.Request) -> web.Response:
        """Create a run."""
        body = await json_object(request) or {}
        workflow_id = body.get("workflow_id")
        if not isinstance(workflow_id, str):
            return self.refuse(422, "workflow_id: Field required")
        metadata = {key: str(value) for key, value in object_or_empty(body.get("metadata")).items()}
        return self.shown(self.start_triggered(workflow_id, object_or_empty(body.get("json_inputs")), metadata))

    def shown(self, run: SandboxRun) -> web.Response:
        """The run, with the id of the request."""
        return web.json_response(self.body(run), headers={"x-request-id": secrets.token_hex(8)})

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a run with its steps."""
        run = self.find(request)
        if run is None:
            return self.refuse(404)
        self.state.remove(run)
        return web.Response(status=204)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a run; a run that has finished is answered 200 with `cancellation_failed`."""
        run = self.find(request)
        if run is None:
            return self.refuse(404)
        done = self.state.cancel(run, self.words[RunStatus.CANCELLED], "Cancelled by user")
        run = self.state.runs[self.name, run.id]
        status = "cancelled" if done else "cancellation_failed"
        return web.json_response({"run": self.body(run), "redis_available": True, "cancellation_status": status})

    async def list_runs(self, request: web.Request) -> web.Response:
        """Runs, newest first, filtered and paged by run id."""
        try:
            keep = self._filter(request.query)
        except ValueError as problem:
            return self.refuse(422, str(problem))
        runs = [run for run in self.state.list_runs(self.name) if keep(run)]
        if request.query.get("order") == "asc":
            runs.reverse()
        bodies = [self.body(run) for run in runs]
        if self.state.list_is_summary:
            bodies = [{key: body[key] for key in SUMMARY_KEYS if key in body} for body in bodies]
        return self._page(request, bodies, "id")

    async def list_steps(self, request: web.Request) -> web.Response:
        """The steps of one run, paged by step id."""
        run = self.state.find(self.name, request.query.get("run_id", ""))
        if run is None:
            return self._page(request, [], "step_id")
        return self._page(request, step_bodies(run, self.state.snapshot(run)), "step_id")

    async def show_step(self, request: web.Request) -> web.Response:
        """One step."""
        step_id = request.match_info["step_id"]
        run = next((run for run in self.state.list_runs(self.name) if step_id.startswith(f"{run.id}_")), None)
        steps = step_bodies(run, self.state.snapshot(run)) if run else []
        found = next((step for step in steps if step["step_id"] == step_id), None)
        return self.refuse(404, "Workflow step not found") if found is None else web.json_response(found)

    async def list_flat_steps(self, request: web.Request) -> web.Response:
        """The steps of a generation a run; newer runs do not have this path."""
        run = self.find(request)
        if run is None or run.shape != "a":
            return self.refuse(404, "Not Found")
        return web.json_response(flat_steps(run, self.state.snapshot(run)))

    def body(self, run: SandboxRun) -> dict[str, Json]:
        """The run in its generation."""
        return run_body(run, self.state.snapshot(run))

    def _filter(self, query: Mapping[str, str]) -> Callable[[SandboxRun], bool]:
        wanted = json.loads(query.get("metadata", "{}"))
        if not isinstance(wanted, dict):
            raise ValueError("metadata: must be a JSON object")  # noqa: TRY004 - a wrong value, not a wrong call

        def keep(run: SandboxRun) -> bool:
            word, day = self.state.snapshot(run).word, format_instant(run.created_at)[:10]
            return (
                query.get("workflow_id", run.workflow_id) == run.workflow_id
                and query.get("status", word) == word
                and query.get("exclude_status") != word
                and run.id.startswith(query.get("search", ""))
                and query.get("from_date", day) <= day <= query.get("to_date", day)
                and all(run.metadata.get(key) == value for key, value in wanted.items())
            )

        return keep

    def _page(self, request: web.Request, items: Sequence[dict[str, Json]], key: str) -> web.Response:
        limit = whole_number(request.query.get("limit"), PAGE_DEFAULT)
        after, before = request.query.get("after"), request.query.get("before")
        if not limit or limit > PAGE_MAX or (after and before):
            return self.refuse(422, f"limit: 1 to {PAGE_MAX}; after and before exclude each other")
        ids = [item[key] for item in items]
        start = ids.index(after) + 1 if after in ids else 0
        if before in ids:
            start = max(0, ids.index(before) - limit)
        end = min(start + limit, ids.index(before) if before in ids else len(items))
        page = items[start:end]
        metadata = {
            "before": page[0][key] if page and start > 0 else None,
            "after": page[-1][key] if page and end < len(items) else None,
        }
        return web.json_response({"data": page, "list_metadata": metadata})


def _ulid(prefix: str) -> str:
    return f"{prefix}_{new_id(prefix).rpartition('_')[2].upper()}"
