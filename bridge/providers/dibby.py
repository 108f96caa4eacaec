"""Dibby (dibby.ai): trigger and look at one run. There is no list, no cancel, and one timestamp.

A run names neither its workflow nor when it ended. The documentation spells the trigger's key
`worfklowId` in its tables and `workflowId` in its runnable examples; the examples are believed.
"""

from __future__ import annotations

from typing import Final

from bridge.domain.observation import Known, Observation, PollResult
from bridge.domain.run import Json, RunStatus
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    JsonObject,
    ProviderDefaults,
    Triggered,
    error_of,
    fetch_normalised,
    progress_of,
    segment,
    start_run,
    status_of,
    unpacked,
)
from bridge.providers.http import ProviderFailure, ProviderHttp

STATUSES: Final = {
    "pending": RunStatus.QUEUED,
    "running": RunStatus.RUNNING,
    "finished": RunStatus.SUCCEEDED,
    "failed": RunStatus.FAILED,
}
_NO_RUN: Final = "runbridge-connection-check"
_KEY_TAKEN: Final = frozenset({400, 404, 410, 422})  # the key was taken, only the id was not


def normalise(payload: JsonObject) -> Observation:
    """A run as `GET /runs/{id}` tells it; BadPayload if it has no status."""
    status, word = status_of(payload.get("status"), STATUSES)
    return Observation(
        status=status,
        provider_status=word,
        progress=progress_of(payload.get("stepsCompleted"), payload.get("steps")),
        output=unpacked(payload.get("output")),
        error=error_of(payload.get("error")),
        created_at=provider_instant(payload.get("createdAt")),
    )


class Dibby(ProviderDefaults):
    """The provider `dibby`. Option `workflow_key` renames the trigger's `workflowId`."""

    name = "dibby"
    default_base_url = "https://dibby.ai/api"

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, known: Known | None = None) -> PollResult:
        """One poll of `GET /runs/{id}`."""
        return await fetch_normalised(http, f"/runs/{segment(provider_run_id)}", normalise, known)

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """`POST /runs`; `inputs` must match the workflow's start node."""
        key = http.options.get("workflow_key", "workflowId")
        return await start_run(http, "/runs", {**extra, key: workflow_id, "inputs": inputs})

    async def check(self, http: ProviderHttp) -> None:
        """Look at a run that cannot exist: being told so means that the key is good."""
        try:
            await http.request("GET", f"/runs/{_NO_RUN}")
        except ProviderFailure as failure:
            if failure.failed.status not in _KEY_TAKEN:
                raise
