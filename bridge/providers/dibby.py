"""Dibby (dibby.ai): trigger a run and get one run. The API has no list and no cancel.

A run object has no workflow id, and `createdAt` is its only time. The documentation spells the trigger's key
`worfklowId` in its tables and `workflowId` in its runnable examples; this provider sends the latter.
"""

from __future__ import annotations

from typing import Final

from bridge.domain.observation import FailureKind, LastResponse, Observation, PollResult
from bridge.domain.run import Json, RunStatus
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import ProviderDefaults, RunFormat, Triggered, fetch_normalised, key_not_proven, start_run
from bridge.providers.fields import JsonObject, error_of, path_segment, progress_of, status_of, unpack_json
from bridge.providers.http import ProviderFailure, ProviderHttp
from bridge.providers.partial_json import RunFields

STATUSES: Final = {
    "pending": RunStatus.QUEUED,
    "running": RunStatus.RUNNING,
    "finished": RunStatus.SUCCEEDED,
    "failed": RunStatus.FAILED,
}
FIELDS: Final = RunFields(
    names=frozenset({"id", "status", "stepsCompleted", "steps", "output", "error", "createdAt"}),
    output="output",
    error="error",
)
_NO_RUN: Final = "runbridge-connection-check"
_WRONG_KEY: Final = "runbridge-wrong-key"
_KEY_ACCEPTED: Final = frozenset({400, 404, 410, 422})  # only the run id was refused


def normalise(payload: JsonObject) -> Observation:
    """Read the body of `GET /runs/{id}`. Raises BadPayload if it has no status."""
    status, word = status_of(payload.get("status"), STATUSES)
    return Observation(
        status=status,
        provider_status=word,
        progress=progress_of(payload.get("stepsCompleted"), payload.get("steps")),
        output=unpack_json(payload.get("output")),
        error=error_of(payload.get("error")),
        created_at=provider_instant(payload.get("createdAt")),
    )


FORMAT: Final = RunFormat(normalise, FIELDS)


class Dibby(ProviderDefaults):
    """The provider `dibby`. Option `workflow_key` renames the trigger's `workflowId`."""

    name = "dibby"
    default_base_url = "https://dibby.ai/api"

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll `GET /runs/{id}`."""
        return await fetch_normalised(http, f"/runs/{path_segment(provider_run_id)}", provider_run_id, FORMAT, last)

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """`POST /runs`; `inputs` must match the workflow's start node."""
        key = http.options.get("workflow_key", "workflowId")
        return await start_run(http, "/runs", {**extra, key: workflow_id, "inputs": inputs})

    async def check(self, http: ProviderHttp) -> None:
        """Get a run that cannot exist, with the key and then with a wrong one, which must be refused."""
        path, wrong_key = f"/runs/{_NO_RUN}", {"Authorization": f"Bearer {_WRONG_KEY}"}
        for headers in ({}, wrong_key):
            try:
                await http.request("GET", path, headers=headers)
            except ProviderFailure as failure:
                if headers and failure.failed.kind is FailureKind.UNAUTHORIZED:
                    return
                if failure.failed.status not in _KEY_ACCEPTED:
                    raise
        raise key_not_proven(f"GET {path} is answered alike with a wrong key; check base_url")
