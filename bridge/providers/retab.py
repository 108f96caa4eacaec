"""Retab (api.retab.com), in the three shapes that its API has had.

    A  until 2026-05-08   `status`, outputs and times at the top, review word `waiting_for_human`
    B  May 2026           `lifecycle.kind`, ids under `workflow`, times under `timing`
    C  since              `lifecycle.status`, review word `awaiting_review`, outputs only in the steps

A body of any generation is read the same way: the first field that is not null counts. Since `final_outputs` is
gone, the outputs are in the steps of a run.

A definition could say the poll and the list of one generation. It could not say outputs that are gathered from the
steps by block, handle and loop, the two addresses of the steps of which a server has one, the members that make an item
of the list whole in each generation, inputs of two forms, a cancel that was accepted and failed in its body, or a
base_url whose version is cut off.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from bridge.domain.connection import Connection
from bridge.domain.errors import BadPayload, ProviderRefused
from bridge.domain.failure import FailureKind
from bridge.domain.observation import LastResponse, Observation, PollFailed, PollResult, RunPage
from bridge.domain.run import Json, RunError, RunStatus
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    PAGE_RUNS,
    ProviderDefaults,
    RunFormat,
    Triggered,
    action_error,
    check_list,
    fetch_normalised,
    fetch_page,
    start_run,
)
from bridge.providers.fields import (
    JsonObject,
    check_same_run,
    error_of,
    first_not_null,
    object_or_empty,
    path_segment,
    short_text,
    status_of,
    text_of,
    unpack_json,
)
from bridge.providers.http import ProviderFailure, ProviderHttp
from bridge.providers.partial_json import RunFields

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
_TIMES: Final = frozenset({"created_at", "started_at", "completed_at"})
_ERROR_PARTS: Final = frozenset({"error", "message", "reason", "details", "stage", "failing_step_id"})
FIELDS: Final = RunFields(
    names=frozenset({"id", "status", "kind", "workflow_id", "final_outputs", "error_details", "error_stage"})
    | _TIMES
    | _ERROR_PARTS,
    output="final_outputs",
    error="error",
    nested=frozenset({"lifecycle", "timing", "workflow"}),
)
_VERSION_AT_END: Final = re.compile(r"/v\d+/*\Z", re.ASCII)
_RUNS_PATH: Final = "/v1/workflows/runs"
_STEPS_PATH: Final = "/v1/workflows/steps"
_STEP_PAGES_MAX: Final = 500
_END_TYPES: Final = frozenset({"end", "output"})
_INPUT_KEYS: Final = frozenset({"documents", "json_inputs"})


def normalise(payload: JsonObject) -> Observation:
    """Read a run of any generation. Raises BadPayload if it has no status."""
    lifecycle = object_or_empty(payload.get("lifecycle"))
    timing = object_or_empty(payload.get("timing"))
    workflow = object_or_empty(payload.get("workflow"))
    word = first_not_null(lifecycle.get("status"), lifecycle.get("kind"), payload.get("status"))
    status, raw = status_of(word, STATUSES)
    outputs = unpack_json(payload.get("final_outputs"))
    output = outputs if isinstance(outputs, dict | list) else None

    def instant(name: str) -> str | None:
        return provider_instant(timing.get(name)) or provider_instant(payload.get(name))

    return Observation(
        status=status,
        provider_status=raw,
        workflow_id=short_text(payload.get("workflow_id")) or short_text(workflow.get("workflow_id")),
        output=output if output or status.is_settled else None,  # {} until the run has outputs
        error=_error(payload, lifecycle),
        created_at=instant("created_at"),
        started_at=instant("started_at"),
        finished_at=instant("completed_at"),
        output_is_elsewhere=status is RunStatus.SUCCEEDED and output is None,
    )


def _error(payload: JsonObject, lifecycle: JsonObject) -> RunError | None:
    """The lifecycle's message or reason, or the flat `error`; code and step from the first field that has them."""
    found = error_of(first_not_null(lifecycle.get("message"), lifecycle.get("reason"))) or error_of(
        first_not_null(lifecycle.get("error"), payload.get("error"))
    )
    if found is None:
        return None
    details = object_or_empty(first_not_null(lifecycle.get("details"), payload.get("error_details")))
    stage = first_not_null(lifecycle.get("stage"), payload.get("error_stage"))
    code = short_text(details.get("error_code")) or short_text(stage)
    step = (
        short_text(lifecycle.get("failing_step_id"))
        or short_text(details.get("block_name"))
        or short_text(details.get("block_id"))
    )
    return RunError(found.message, found.code or code, found.step or step)


def is_complete(payload: JsonObject) -> bool:
    """Whether a run in a list has all the fields of a single run of its generation."""
    if "lifecycle" in payload:
        return "timing" in payload
    return payload.keys() >= {"completed_at", "final_outputs", "error"}


FORMAT: Final = RunFormat(normalise, FIELDS, error_key="detail")


class Retab(ProviderDefaults):
    """The provider `retab`. Option `auth_scheme = "api-key"` sends the header in use until June 2026."""

    name = "retab"
    default_base_url = "https://api.retab.com"
    lists = True

    def base_url(self, connection: Connection) -> str:
        """The configured URL without a trailing version, which the paths include."""
        return _VERSION_AT_END.sub("", connection.base_url)

    def headers(self, connection: Connection) -> dict[str, str]:
        """The key as a bearer token, or in `Api-Key`."""
        if connection.options.get("auth_scheme") == "api-key":
            return {"Api-Key": connection.api_key.reveal()}
        return super().headers(connection)

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll `GET /v1/workflows/runs/{id}`."""
        return await fetch_normalised(
            http, f"{_RUNS_PATH}/{path_segment(provider_run_id)}", provider_run_id, FORMAT, last
        )

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """`GET /v1/workflows/runs`; the cursor is a run's id, so pages do not shift. `since` is not used."""
        query = [("limit", str(PAGE_RUNS)), ("order", "desc"), *([("after", cursor)] if cursor else [])]

        def cursor_after(body: JsonObject, _count: int) -> str | None:
            after = text_of(object_or_empty(body.get("list_metadata")).get("after"))
            return None if after == cursor else after  # a server that ignores the cursor repeats it for ever

        return await fetch_page(
            http,
            _RUNS_PATH,
            query,
            key="data",
            cursor_key="list_metadata",
            normalise=normalise,
            is_complete=is_complete,
            cursor_after=cursor_after,
        )

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """Fetch the steps of the run and return their outputs, see `output_of_steps`."""
        return output_of_steps(await _fetch_steps(http, run_id))

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """`POST /v1/workflows/runs`.

        `inputs` is `{"documents": …, "json_inputs": …}` by start block; any other object is the `json_inputs`.
        `extra` may hold `version`, `metadata`, `sources`.
        """
        own = inputs if isinstance(inputs, dict) and inputs and inputs.keys() <= _INPUT_KEYS else None
        body: JsonObject = {**extra, **(own or ({"json_inputs": inputs} if inputs else {})), "workflow_id": workflow_id}
        return await start_run(http, _RUNS_PATH, body)

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Request cancellation; a 200 means only that the request was accepted, unless the body says that it failed."""
        path = f"{_RUNS_PATH}/{path_segment(provider_run_id)}/cancel"
        try:
            response = await http.request("POST", path, json_body={})
        except ProviderFailure as failure:
            raise action_error(failure) from None
        if object_or_empty(response.body).get("cancellation_status") == "cancellation_failed":
            raise ProviderRefused("retab could not cancel the run; it may have finished before")

    async def check(self, http: ProviderHttp) -> None:
        """Get the newest run, if there is one."""
        await check_list(http, _RUNS_PATH, "data")


async def _fetch_steps(http: ProviderHttp, run_id: str) -> list[JsonObject]:
    """All steps of a run, from the current path or from the one in use before May 2026.

    The path that served last is asked first, the other if that answers 404. Raises ProviderFailure if a page cannot be
    read, or if the pages together exceed the limit for one body.
    """
    addresses: list[tuple[str, list[tuple[str, str]]]] = [
        (_STEPS_PATH, [("run_id", run_id)]),
        (f"/v1/workflows/runs/{path_segment(run_id)}/steps", []),
    ]
    if _STEPS_PATH in http.former_paths:
        addresses.reverse()
    try:
        return await _fetch_pages(http, *addresses[0], run_id)
    except ProviderFailure as failure:
        if failure.failed.kind is not FailureKind.NOT_FOUND:
            raise
    steps = await _fetch_pages(http, *addresses[1], run_id)
    http.former_paths ^= {_STEPS_PATH}
    return steps


def output_of_steps(steps: list[JsonObject]) -> Json:
    """The outputs of a run as `{block id: data}`; None if no step has JSON.

    The blocks of type `end` or `output` count if any has JSON; otherwise every completed block except the start
    blocks, whose outputs are the run's inputs. A block with several JSON handles becomes `{handle: data}`, one that
    ran several times (a loop) a list in the order of the steps. Files are left out.
    """
    outputs = [(step, data) for step in steps if _is_completed(step) for data in _json_outputs(step)]
    ends = [(step, data) for step, data in outputs if text_of(_block_type(step)) in _END_TYPES]
    by_block: dict[str, list[Json]] = {}
    for step, data in ends or outputs:
        block = text_of(first_not_null(step.get("block_id"), step.get("node_id"), step.get("step_id")))
        by_block.setdefault(block or "unnamed", []).append(data)
    return {block: found[0] if len(found) == 1 else found for block, found in by_block.items()} or None


async def _fetch_pages(http: ProviderHttp, path: str, query: list[tuple[str, str]], run_id: str) -> list[JsonObject]:
    steps: list[JsonObject] = []
    after: str | None = None
    room = http.body_bytes_max
    for _ in range(_STEP_PAGES_MAX):
        response = await http.request("GET", path, query=[*query, *([("after", after)] if after else [])])
        room -= len(response.data)
        try:
            page = _steps_in(response.body, run_id)
            if room < 0:
                raise BadPayload("the steps are too large")
        except BadPayload as error:
            raise ProviderFailure(
                PollFailed(FailureKind.BAD_PAYLOAD, f"GET {path}: {error}", response.status)
            ) from None
        before = after
        after = text_of(object_or_empty(object_or_empty(response.body).get("list_metadata")).get("after"))
        if after is not None and after == before:
            break  # a server that ignores the cursor repeats the page for ever
        steps += page
        if after is None:
            break
    return steps


def _steps_in(body: Json, run_id: str) -> list[JsonObject]:
    """The steps of a page. Raises BadPayload if it is none, or if a step belongs to another run."""
    items = first_not_null(body.get("data"), body.get("steps")) if isinstance(body, dict) else body
    if not isinstance(items, list):
        raise BadPayload("the answer is not a list of steps")
    steps = [item for item in items if isinstance(item, dict)]
    for step in steps:
        check_same_run(step.get("run_id"), run_id)
    return steps


def _is_completed(step: JsonObject) -> bool:
    lifecycle = object_or_empty(step.get("lifecycle"))
    word = first_not_null(lifecycle.get("status"), lifecycle.get("kind"), step.get("status"))
    return word == "completed" and not (text_of(_block_type(step)) or "").startswith("start")


def _block_type(step: JsonObject) -> Json:
    return first_not_null(step.get("block_type"), step.get("node_type"))


def _json_outputs(step: JsonObject) -> list[Json]:
    """The JSON output of a step, as a list of at most one value."""
    handles = {
        name: handle["data"]
        for name, handle in object_or_empty(step.get("handle_outputs")).items()
        if isinstance(handle, dict) and handle.get("type", "json") == "json" and handle.get("data") is not None
    }
    if handles:
        return [handles if len(handles) > 1 else next(iter(handles.values()))]
    flat = step.get("output")  # the oldest shape
    return [] if flat is None else [flat]
