"""Retab (api.retab.com), in the three shapes that its API has had.

    A  until 2026-05-08   `status`, outputs and times at the top, review word `waiting_for_human`
    B  May 2026           `lifecycle.kind`, ids under `workflow`, times under `timing`
    C  since              `lifecycle.status`, review word `awaiting_review`, outputs only in the steps

A server of any age is read without being asked for its age: the first field that tells something counts.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from bridge.domain.connection import Connection
from bridge.domain.errors import ProviderRefused
from bridge.domain.observation import Known, Observation, PollResult, RunPage
from bridge.domain.run import Json, RunError, RunStatus
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    ERROR_CHARS_MAX,
    JsonObject,
    ProviderDefaults,
    Triggered,
    error_of,
    fetch_normalised,
    first_told,
    object_or_empty,
    refused_or_failed,
    segment,
    short_text,
    start_run,
    status_of,
    text_of,
    unpacked,
)
from bridge.providers.http import ProviderFailure, ProviderHttp
from bridge.providers.listing import PAGE_RUNS, fetch_page
from bridge.providers.retab_steps import fetch_steps, output_of_steps

STATUSES: Final = {
    "pending": RunStatus.QUEUED,
    "queued": RunStatus.QUEUED,
    "running": RunStatus.RUNNING,
    "waiting_for_human": RunStatus.WAITING,
    "awaiting_review": RunStatus.WAITING,
    "completed": RunStatus.SUCCEEDED,
    "error": RunStatus.FAILED,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}
_VERSION_AT_END: Final = re.compile(r"/v\d+/*\Z", re.ASCII)
_RUNS_PATH: Final = "/v1/workflows/runs"
_INPUT_KEYS: Final = frozenset({"documents", "json_inputs"})


def normalise(payload: JsonObject) -> Observation:
    """A run of any generation; BadPayload if it has no status."""
    lifecycle = object_or_empty(payload.get("lifecycle"))
    timing = object_or_empty(payload.get("timing"))
    workflow = object_or_empty(payload.get("workflow"))
    word = first_told(lifecycle.get("status"), lifecycle.get("kind"), payload.get("status"))
    status, raw = status_of(word, STATUSES)
    told = unpacked(payload.get("final_outputs"))
    output = told if isinstance(told, dict | list) else None

    def instant(name: str) -> str | None:
        return provider_instant(timing.get(name)) or provider_instant(payload.get(name))

    return Observation(
        status=status,
        provider_status=raw,
        workflow_id=short_text(payload.get("workflow_id")) or short_text(workflow.get("workflow_id")),
        output=output if output or status.is_settled else None,  # {} until there is something to tell
        error=_error(payload, lifecycle),
        created_at=instant("created_at"),
        started_at=instant("started_at"),
        finished_at=instant("completed_at"),
        output_is_elsewhere=status is RunStatus.SUCCEEDED and output is None,
    )


def _error(payload: JsonObject, lifecycle: JsonObject) -> RunError | None:
    """The lifecycle's message or reason, else the flat `error`; code and step from wherever they are told."""
    flat = error_of(first_told(lifecycle.get("error"), payload.get("error")))
    message = text_of(first_told(lifecycle.get("message"), lifecycle.get("reason")))
    if message is None and flat is None:
        return None
    details = object_or_empty(first_told(lifecycle.get("details"), payload.get("error_details")))
    stage = first_told(lifecycle.get("stage"), payload.get("error_stage"))
    code = short_text(details.get("error_code")) or short_text(stage)
    step = (
        short_text(lifecycle.get("failing_step_id"))
        or short_text(details.get("block_name"))
        or short_text(details.get("block_id"))
    )
    if message is not None:
        return RunError(message[:ERROR_CHARS_MAX], code, step)
    return flat and RunError(flat.message, flat.code or code, flat.step or step)


def is_whole(payload: JsonObject) -> bool:
    """Whether a run in a list tells all that it tells by itself, in any generation."""
    if "lifecycle" in payload:
        return "timing" in payload
    return payload.keys() >= {"completed_at", "final_outputs", "error"}


class Retab(ProviderDefaults):
    """The provider `retab`. Option `auth_scheme = "api-key"` sends the header that it took until June 2026."""

    name = "retab"
    default_base_url = "https://api.retab.com"
    lists = True

    def base_url(self, connection: Connection) -> str:
        """The configured address without a trailing version: the paths bring their own."""
        return _VERSION_AT_END.sub("", connection.base_url)

    def headers(self, connection: Connection) -> dict[str, str]:
        """The key as bearer token, or in `Api-Key`."""
        if connection.options.get("auth_scheme") == "api-key":
            return {"Api-Key": connection.api_key.reveal()}
        return super().headers(connection)

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, known: Known | None = None) -> PollResult:
        """One poll of `GET /v1/workflows/runs/{id}`."""
        return await fetch_normalised(http, f"{_RUNS_PATH}/{segment(provider_run_id)}", normalise, known)

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """`GET /v1/workflows/runs`; the cursor is a run's id, so that pages do not shift. `since` is not needed."""
        query = [("limit", str(PAGE_RUNS)), ("order", "desc"), *([("after", cursor)] if cursor else [])]

        def cursor_after(body: JsonObject, _count: int) -> str | None:
            after = text_of(object_or_empty(body.get("list_metadata")).get("after"))
            return None if after == cursor else after  # a server that ignores the cursor sends the same for ever

        return await fetch_page(
            http, _RUNS_PATH, query, key="data", normalise=normalise, is_whole=is_whole, cursor_after=cursor_after
        )

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """The outputs of the run's steps, as `output_of_steps` arranges them."""
        return output_of_steps(await fetch_steps(http, run_id))

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """`POST /v1/workflows/runs`.

        `inputs` is `{"documents": …, "json_inputs": …}` by start block; any other object is the `json_inputs`.
        `extra` may hold `version`, `metadata`, `sources`.
        """
        own = inputs if isinstance(inputs, dict) and inputs and inputs.keys() <= _INPUT_KEYS else None
        body: JsonObject = {**extra, **(own or ({"json_inputs": inputs} if inputs else {})), "workflow_id": workflow_id}
        return await start_run(http, _RUNS_PATH, body)

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Ask for it; a 200 only says that the wish was heard, unless it says outright that it failed."""
        path = f"{_RUNS_PATH}/{segment(provider_run_id)}/cancel"
        try:
            answer = await http.request("POST", path, json_body={})
        except ProviderFailure as failure:
            raise refused_or_failed(failure) from None
        if object_or_empty(answer.body).get("cancellation_status") == "cancellation_failed":
            raise ProviderRefused("retab could not cancel the run; it may have finished before")

    async def check(self, http: ProviderHttp) -> None:
        """The newest run, if there is one."""
        await http.request("GET", _RUNS_PATH, query=[("limit", "1")])
