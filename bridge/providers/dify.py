"""Dify (cloud and self-hosted): one key per app, run ids are UUIDs.

Servers differ by age: `outputs` is an object in newer ones and JSON text in older ones, times are Unix seconds
or, in one generation, RFC 822 text, and a missing run is a 404 or a 200 full of nulls. A run is started by opening
its event stream, because no other call returns its id before it ends.

A definition could say the poll and the check. It could not say the start over an event stream that must be read to its
end, the cancel by a task id that only the start tells, a time in one of two forms, outputs that are an object, its JSON
or the text of a null, or that a 404 is the provider's own by its `code` and otherwise a gateway's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from bridge.domain.errors import ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.observation import LastResponse, Observation, PollFailed, PollResult
from bridge.domain.run import Json, RunStatus
from bridge.domain.strict_json import parse_json
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    ProviderDefaults,
    RunFormat,
    Triggered,
    action_error,
    check_list,
    fetch_normalised,
    run_id_in,
)
from bridge.providers.failures import error_text
from bridge.providers.fields import (
    JsonObject,
    NoSuchRun,
    error_of,
    path_segment,
    short_text,
    status_of,
    text_of,
    unpack_json,
)
from bridge.providers.http import ProviderFailure, ProviderHttp
from bridge.providers.partial_json import RunFields

STATUSES: Final = {
    "scheduled": RunStatus.QUEUED,
    "running": RunStatus.RUNNING,
    "paused": RunStatus.WAITING,
    "succeeded": RunStatus.SUCCEEDED,
    "partial-succeeded": RunStatus.PARTIAL,
    "failed": RunStatus.FAILED,
    "stopped": RunStatus.CANCELLED,
}
FIELDS: Final = RunFields(
    names=frozenset({"id", "status", "workflow_id", "outputs", "error", "created_at", "finished_at"}),
    output="outputs",
    error="error",
)
USER: Final = "runbridge"  # Dify requires a user to start a run, and the same one to stop it
_RUN_PATH: Final = "/workflows/run"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_PLAN_QUOTA: Final = "rate_limit_error"  # a 429 that waiting does not cure, unlike too_many_requests
STREAM_MAX_S: Final = 1200.0  # the default cap of a server on a run
_OPEN_STREAMS: set[asyncio.Task[None]] = set()  # a loop holds only weak references to its tasks


def normalise(payload: JsonObject) -> Observation:
    """Read the body of `GET /workflows/run/{id}`. Raises NoSuchRun if all is null, BadPayload without a status."""
    if "id" in payload and payload["id"] is None:
        raise NoSuchRun("the server answered 200 with nulls, which means that it has no such run")
    status, word = status_of(payload.get("status"), STATUSES)
    output = unpack_json(payload.get("outputs"))
    if isinstance(output, str) and output.strip() in ("", "null"):  # older servers send the text of their database
        output = None
    return Observation(
        status=status,
        provider_status=word,
        workflow_id=short_text(payload.get("workflow_id")),
        output=None if output == {} and not status.is_settled else output,  # {} until the run has outputs
        error=error_of(payload.get("error")),
        created_at=provider_instant(payload.get("created_at")),
        finished_at=provider_instant(payload.get("finished_at")),
    )


FORMAT: Final = RunFormat(normalise, FIELDS, error_key="code")


class Dify(ProviderDefaults):
    """The provider `dify`."""

    name = "dify"
    default_base_url = "https://api.dify.ai/v1"

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Only UUIDs: older servers answer 500 to anything else."""
        is_uuid = _UUID.fullmatch(provider_run_id) is not None
        return None if is_uuid else "a Dify run id is a UUID, the workflow_run_id and not the task_id"

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll `GET /workflows/run/{id}`."""
        return await fetch_normalised(
            http, f"{_RUN_PATH}/{path_segment(provider_run_id)}", provider_run_id, FORMAT, last
        )

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """Start the app's published workflow; the key selects it, not `workflow_id`.

        Reads the event stream until it names the run's id, and in the background to its end: older servers write a
        run's final state from that stream and leave the run `running` for ever if the client disconnects.
        `provider_ref` is the task id.
        """
        body: JsonObject = {**extra, "inputs": inputs or {}, "response_mode": "streaming", "user": USER}
        started: asyncio.Future[Triggered] = asyncio.get_running_loop().create_future()
        stream = asyncio.create_task(_read_stream(http, body, started), name="dify-stream")
        _OPEN_STREAMS.add(stream)
        stream.add_done_callback(_OPEN_STREAMS.discard)
        try:
            async with asyncio.timeout(http.timeout_s):
                return await started
        except TimeoutError:
            stream.cancel()
            message = f"POST {_RUN_PATH}: no run id within {http.timeout_s:g} s"
            raise ProviderFailure(PollFailed(FailureKind.TIMEOUT, message)) from None
        except ProviderFailure as failure:
            if failure.code == _PLAN_QUOTA:
                raise ProviderRefused(failure.failed.message) from None
            raise action_error(failure) from None

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Stop by task id, which is known only for runs triggered through runbridge."""
        if provider_ref is None:
            raise Unsupported("dify stops a run by its task id, known only for runs that runbridge has triggered")
        path = f"/workflows/tasks/{path_segment(provider_ref)}/stop"
        try:
            await http.request("POST", path, json_body={"user": USER}, expects_json=False)
        except ProviderFailure as failure:
            raise action_error(failure) from None

    async def check(self, http: ProviderHttp) -> None:
        """Get one line of the app's log."""
        await check_list(http, "/workflows/logs", "data")


async def _read_stream(http: ProviderHttp, body: JsonObject, started: asyncio.Future[Triggered]) -> None:
    try:
        async with http.stream("POST", _RUN_PATH, json_body=body, timeout_s=STREAM_MAX_S) as chunks:
            started.set_result(await _read_start(http, chunks))
            async for _ in chunks:
                pass
    except (ProviderFailure, ProviderRefused) as error:
        if not started.done():  # later faults of the stream do not matter: polling finds the outcome
            started.set_exception(error)


async def _read_start(http: ProviderHttp, chunks: AsyncIterator[bytes]) -> Triggered:
    async with aclosing(_events(chunks)) as events:
        async for event in events:
            match event.get("event"):
                case "workflow_started":
                    run_id = run_id_in(http, event, "workflow_run_id", f"POST {_RUN_PATH}")
                    return Triggered(run_id, text_of(event.get("task_id")))
                case "error":
                    message, code = error_text(event)
                    raise ProviderRefused(
                        f"POST {_RUN_PATH}: {http.redacted(message or code or 'an error without a text')}"
                    )
    message = f"POST {_RUN_PATH}: the event stream ended before it named a run id"
    raise ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message, 200))


async def _events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[JsonObject]:
    """The JSON objects in the `data:` lines of a stream; pings and comments have none."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                event = parse_json(line.removeprefix(b"data:"))
                if isinstance(event, dict):
                    yield event
