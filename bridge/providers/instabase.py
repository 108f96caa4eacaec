"""Instabase AI Hub: runs of apps and deployments.

Times are Unix nanoseconds, which a double cannot represent; they stay integers. Results are fetched separately, page
by page. The API has no cancel and no status for queued.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from bridge.domain.connection import Connection
from bridge.domain.errors import BadPayload, ProviderRefused
from bridge.domain.observation import FailureKind, LastResponse, Observation, PollFailed, PollResult, RunPage
from bridge.domain.run import Json, RunStatus
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    PAGE_RUNS,
    ProviderDefaults,
    RunFormat,
    Triggered,
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
    path_segment,
    short_text,
    status_of,
)
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderResponse
from bridge.providers.partial_json import RunFields

STATUSES: Final = {
    "running": RunStatus.RUNNING,
    "paused": RunStatus.WAITING,
    "stopped_at_checkpoint": RunStatus.WAITING,
    "complete": RunStatus.SUCCEEDED,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}
FIELDS: Final = RunFields(
    names=frozenset({"id", "status", "msg", "deployment_id", "app_id", "start_timestamp", "finish_timestamp"}),
    error="msg",
)
_WITH_ERROR: Final = frozenset({RunStatus.FAILED, RunStatus.CANCELLED})
_PAGES_MAX: Final = 1000  # an app run takes at most 1,000 files
_RUNS_PATH: Final = "/v2/apps/runs"
_CAPS: Final = frozenset({10, 20, 25, 30, 50})  # page sizes of servers that ignore a larger limit


def normalise(payload: JsonObject) -> Observation:
    """Read the body of `GET /v2/apps/runs/{id}`. Raises BadPayload if it has no status.

    `msg` is the error of a failed or cancelled run; with any other status it is a remark. The workflow is the
    deployment, or the app if there is none.
    """
    status, word = status_of(payload.get("status"), STATUSES)
    return Observation(
        status=status,
        provider_status=word,
        workflow_id=short_text(first_not_null(payload.get("deployment_id"), payload.get("app_id"))),
        error=error_of(payload.get("msg")) if status in _WITH_ERROR else None,
        started_at=provider_instant(payload.get("start_timestamp")),
        finished_at=provider_instant(payload.get("finish_timestamp")),
        output_is_elsewhere=status is RunStatus.SUCCEEDED,
    )


def is_complete(payload: JsonObject) -> bool:
    """Whether a run in a list has all the fields of a single run."""
    return payload.keys() >= {"finish_timestamp", "msg"}


FORMAT: Final = RunFormat(normalise, FIELDS)


class Instabase(ProviderDefaults):
    """The provider `instabase`. Option `ib_context` names the organization."""

    name = "instabase"
    default_base_url = "https://aihub.instabase.com/api"
    lists = True

    def headers(self, connection: Connection) -> dict[str, str]:
        """The key and, if set, the organization; without one only the community account's runs are found."""
        context = connection.options.get("ib_context")
        return super().headers(connection) | ({"IB-Context": context} if context else {})

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll `GET /v2/apps/runs/{id}`."""
        return await fetch_normalised(
            http, f"{_RUNS_PATH}/{path_segment(provider_run_id)}", provider_run_id, FORMAT, last
        )

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """`GET /v2/apps/runs`; without `from_timestamp` it covers 24 hours. Pages shift as runs begin."""
        offset = int(cursor or 0)
        query = [
            ("from_timestamp", str(int(since.timestamp()))),
            ("sort_by", "start_timestamp"),
            ("order", "DESCENDING"),
            ("limit", str(PAGE_RUNS)),
            *([("offset", cursor)] if cursor else []),
        ]

        def cursor_after(_body: JsonObject, count: int) -> str | None:
            return str(offset + count) if count >= PAGE_RUNS or count in _CAPS else None

        return await fetch_page(
            http, _RUNS_PATH, query, key="runs", normalise=normalise, is_complete=is_complete, cursor_after=cursor_after
        )

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """Fetch the run's results: the object of the first page, with the `files` of all pages."""
        path = f"{_RUNS_PATH}/{path_segment(run_id)}/results"
        first = await http.request("GET", path)
        files, has_more, room = _page(first, path, run_id, http.body_bytes_max)
        for _ in range(_PAGES_MAX):
            if not has_more:
                break
            page = await http.request("GET", path, query=[("file_offset", str(len(files)))])
            more, has_more, room = _page(page, path, run_id, room)
            has_more = has_more and bool(more)  # an empty page would be requested for ever
            files += more
        results = first.body if isinstance(first.body, dict) else {}
        return {**results, "files": files, "has_more": has_more}

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """Run the deployment `workflow_id`; `inputs` is the body of the request (`batch_id` or `input_dir` …)."""
        if not isinstance(inputs, dict):
            raise ProviderRefused("instabase takes inputs as an object, for example with batch_id or input_dir")
        path = f"/v2/apps/deployments/{path_segment(workflow_id)}/runs"
        return await start_run(http, path, {**extra, **inputs})

    async def check(self, http: ProviderHttp) -> None:
        """Get the newest run, if there is one."""
        await check_list(http, _RUNS_PATH, "runs")


def _page(response: ProviderResponse, path: str, run_id: str, room: int) -> tuple[list[Json], bool, int]:
    """The files of a page, whether more follow, and the bytes still allowed. Raises ProviderFailure."""
    body, left = response.body, room - len(response.data)
    files = body.get("files") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(files, list | None):
        raise _bad(path, "the answer is no page of results", response.status)
    if left < 0:
        raise _bad(path, "the results are too large", response.status)
    try:
        check_same_run(body.get("id"), run_id)
    except BadPayload as error:
        raise _bad(path, str(error), response.status) from None
    return files or [], body.get("has_more") is True, left


def _bad(path: str, said: str, status: int) -> ProviderFailure:
    return ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, f"GET {path}: {said}", status))
