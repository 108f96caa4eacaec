"""The provider interface, and the functions that providers share.

A provider is one file with a pure `normalise` and one line in the registry. `fetch_run` never raises for what the
provider does: every fault is returned as a `PollFailed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from bridge.domain.connection import Connection
from bridge.domain.errors import BadPayload, ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.observation import LastResponse, ListedRun, Observation, Observed, PollFailed, PollResult, RunPage
from bridge.domain.run import Json
from bridge.domain.timestamps import provider_instant
from bridge.providers.failures import error_text, judged_404, said_instead
from bridge.providers.fields import (
    JsonObject,
    NoSuchRun,
    check_id,
    check_same_run,
    json_object,
    object_or_empty,
    text_of,
)
from bridge.providers.http import ProviderFailure, ProviderHttp
from bridge.providers.partial_json import RunFields, without_damage

_KEY_REFUSED: Final = frozenset({"invalid_client", "invalid_grant", "unauthorized_client"})  # RFC 6749, section 5.2
NOT_PROVEN: Final = "reachable, key not proven: "
LAST_BODY_BYTES_MAX: Final = 1024  # a longer body is not kept for comparison: thousands of runs keep one
ETAG_CHARS_MAX: Final = 200
PAGE_RUNS: Final = 100  # Retab's maximum; Instabase documents none
LIST_TIMEOUT_S: Final = 10.0  # a slower list is not quicker than polling each run


@dataclass(frozen=True, slots=True)
class Triggered:
    """A run that was started. `provider_ref` is what `cancel` needs besides the run's id, None if nothing."""

    provider_run_id: str
    provider_ref: str | None = None


@dataclass(frozen=True, slots=True)
class RunFormat:
    """How a provider sends a run: `normalise` reads its `fields`.

    `error_key`: a member of every error document of the provider, None if its error documents are not known.
    """

    normalise: Callable[[JsonObject], Observation]
    fields: RunFields
    error_key: str | None = None


class Provider(Protocol):
    """One kind of API. Every `http` argument comes from `open_http` for the connection concerned."""

    name: str
    default_base_url: str
    lists: bool
    """Whether `list_runs` shows runs of every status, so that one request observes many runs."""
    sends_key: bool
    """Whether requests carry the key of the connection."""
    presents_wrong_key: bool
    """Whether a check may ask with a wrong key."""

    def base_url(self, connection: Connection) -> str:
        """The URL that this provider's paths are appended to."""
        ...

    def headers(self, connection: Connection) -> dict[str, str]:
        """The headers that authenticate `connection`."""
        ...

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Why this cannot be the id of a run here, as a sentence; None if it can."""
        ...

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll one run; every fault of the provider is returned as `PollFailed`.

        `last` allows the provider to answer 304, which then stands for its observation.
        """
        ...

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """Fetch one page of runs, newest first: the first page, or the one at `cursor` (a `next_cursor`).

        Runs that began before `since` may be left out. Raises ProviderFailure, or Unsupported if there is no list.
        """
        ...

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """Fetch the output of a run whose observation has `output_is_elsewhere`. Raises ProviderFailure."""
        ...

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """Start a run. Raises ProviderRefused if the provider declines, ProviderFailure for any other fault."""
        ...

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Request cancellation; later polls show whether it happened.

        Raises ProviderRefused and ProviderFailure as `trigger` does, Unsupported if the API has no such call.
        """
        ...

    async def check(self, http: ProviderHttp) -> None:
        """Make one authenticated call. Raises ProviderFailure unless it is answered as an accepted key would be."""
        ...

    async def present_key(self, http: ProviderHttp) -> None:
        """Send the one request of `check` that carries the key, which may be a wrong one. Raises ProviderFailure."""
        ...


class ProviderDefaults:
    """Behaviour that most providers share; a provider overrides the rest."""

    name: str
    default_base_url: str
    lists: bool = False
    sends_key: bool = True
    presents_wrong_key: bool = True

    def base_url(self, connection: Connection) -> str:
        """The configured URL."""
        return connection.base_url

    def headers(self, connection: Connection) -> dict[str, str]:
        """The key as a bearer token."""
        return {"Authorization": f"Bearer {connection.api_key.reveal()}"}

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Any text that fits in a path."""
        return check_id(provider_run_id)

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """Unsupported: the output comes with the run."""
        raise Unsupported(f"{self.name} sends a run's output with the run itself")

    async def check(self, http: ProviderHttp) -> None:
        """Every provider has its own."""
        raise NotImplementedError

    async def present_key(self, http: ProviderHttp) -> None:
        """The call of `check`."""
        await self.check(http)

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """Unsupported: the API has no list, or its list leaves out running runs."""
        raise Unsupported(f"{self.name} has no list of its running runs")

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Unsupported: the API has no such call."""
        raise Unsupported(f"{self.name} has no call to cancel a run; cancel it there by hand")


async def fetch_normalised(
    http: ProviderHttp,
    path: str,
    provider_run_id: str,
    form: RunFormat,
    last: LastResponse | None = None,
) -> PollResult:
    """GET `path` and read its body; every fault is returned as a `PollFailed`.

    A body with the id of another run is a fault; one without an id is accepted. A 304, or the same bytes as last time,
    stand for the last observation. A 404 is `NOT_FOUND` only if it looks like the provider's own.
    """
    try:
        response = await http.request(
            "GET", path, etag=last.etag if last else None, last_body=last.body if last else None, fields=form.fields
        )
    except ProviderFailure as failure:
        return judged_404(failure.failed, failure.body, error_key=form.error_key)
    answered_at, etag = provider_instant(response.headers.get("date")), etag_of(response.headers)
    if last and response.status == 304:
        return Observed(
            last.observation, response.poll_after_s, answered_at, last.etag, is_unchanged=True, body=last.body
        )
    body = response.data if 0 < len(response.data) <= LAST_BODY_BYTES_MAX else None
    if last and response.is_same_body:
        return Observed(last.observation, response.poll_after_s, answered_at, etag, body=body)
    try:
        payload = json_object(response.body)
        if "id" not in response.damaged:
            check_same_run(payload.get("id"), provider_run_id)
        seen = form.normalise(payload)
        if response.damaged:
            seen = without_damage(seen, response.damaged, form.fields)
        return Observed(seen, response.poll_after_s, answered_at, etag, body=body)
    except NoSuchRun as error:
        return PollFailed(FailureKind.NOT_FOUND, f"GET {path}: {error}"[:400], response.status)
    except BadPayload as error:
        what = said_instead(response.status, response.body, error, http.redacted)
        return PollFailed(FailureKind.BAD_PAYLOAD, f"GET {path}: {what}"[:400], response.status, response.poll_after_s)


def exchange_refused(failure: ProviderFailure) -> ProviderFailure:
    """The failure of an exchange of the key for a token; a refused key also where OAuth says so by a 400."""
    said = failure.body.get("error") if isinstance(failure.body, dict) else None
    if failure.failed.status != 400 or not isinstance(said, str) or said not in _KEY_REFUSED:
        return failure
    failed = replace(failure.failed, kind=FailureKind.UNAUTHORIZED)
    return ProviderFailure(failed, failure.code, failure.body, failure.headers)


def etag_of(headers: Mapping[str, str]) -> str | None:
    """The ETag of a response; None if it is absent, too long or not printable ASCII."""
    etag = headers.get("etag")
    if not etag:
        return None
    etag = etag.strip()
    return etag if 1 <= len(etag) <= ETAG_CHARS_MAX and etag.isascii() and etag.isprintable() else None


async def fetch_page(
    http: ProviderHttp,
    path: str,
    query: Sequence[tuple[str, str]],
    *,
    key: str,
    cursor_key: str | None = None,
    normalise: Callable[[JsonObject], Observation],
    is_complete: Callable[[JsonObject], bool],
    cursor_after: Callable[[JsonObject, int], str | None],
) -> RunPage:
    """GET one page of a list whose runs are in `key`. Raises ProviderFailure if the body is not such a page.

    A run in the list is read by the same `normalise` as a single run; one that cannot be read spoils only itself.
    `is_complete` says whether an item has all the fields of a single run; `cursor_after` returns the cursor of the
    next page, given the body, with its `cursor_key`, and the number of its runs.
    """
    fields = RunFields(frozenset({cursor_key} if cursor_key else ()), items=key)
    response = await http.request("GET", path, query=query, timeout_s=LIST_TIMEOUT_S, fields=fields)
    items = response.body.get(key) if isinstance(response.body, dict) else None
    if not isinstance(response.body, dict) or not isinstance(items, list):
        message = f"GET {path}: the answer is not a list of runs"
        raise ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message, response.status))
    return RunPage(
        runs=tuple(run for item in items if (run := _listed_run(item, normalise, is_complete)) is not None),
        next_cursor=cursor_after(response.body, len(items)),
        poll_after_s=response.poll_after_s,
        answered_at=provider_instant(response.headers.get("date")),
    )


def _listed_run(
    item: Json, normalise: Callable[[JsonObject], Observation], is_complete: Callable[[JsonObject], bool]
) -> ListedRun | None:
    run_id = text_of(item.get("id")) if isinstance(item, dict) else None
    if not isinstance(item, dict) or run_id is None or check_id(run_id) is not None:
        return None
    try:
        return ListedRun(run_id, normalise(item), needs_detail=not is_complete(item))
    except BadPayload:
        return ListedRun(run_id, None, needs_detail=True)


async def check_list(http: ProviderHttp, path: str, key: str) -> None:
    """GET the first item of the list in `key`. Raises ProviderFailure if the body is not such a list."""
    response = await http.request("GET", path, query=[("limit", "1")])
    if not isinstance(object_or_empty(response.body).get(key), list):
        said, _ = error_text(response.body)
        raise key_not_proven(
            f"GET {path} answered {response.status} "
            + (f"with an error: {http.redacted(said)}" if said else "with something else than the list of runs")
        )


def key_not_proven(why: str) -> ProviderFailure:
    """The failure of a check whose request was answered, but not in a way that proves the key."""
    return ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, f"{NOT_PROVEN}{why}"[:400]))


async def start_run(http: ProviderHttp, path: str, body: JsonObject) -> Triggered:
    """POST `body` and take the run's id from the `id` of the response. Raises as `Provider.trigger` does."""
    try:
        response = await http.request("POST", path, json_body=body)
    except ProviderFailure as failure:
        raise action_error(failure) from None
    return Triggered(run_id_in(http, response.body, "id", f"POST {path}"))


def started_nothing(http: ProviderHttp, body: Json, why: str) -> str:
    """The message about an answer to a trigger without a run id: the provider's own error, otherwise `why`."""
    said, _ = error_text(body)
    return f"the answer holds no run id but an error: {http.redacted(said)}" if said else why


def run_id_in(http: ProviderHttp, body: Json, key: str, what: str) -> str:
    """The run id in the response to a trigger. Raises ProviderFailure if it has none: a run may have started."""
    run_id = text_of(body.get(key)) if isinstance(body, dict) else None
    if run_id is None or check_id(run_id) is not None:
        message = f"{what}: {started_nothing(http, body, 'the answer holds no run id')}"
        raise ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message[:400], 200))
    return run_id


def action_error(failure: ProviderFailure) -> ProviderRefused | ProviderFailure:
    """The error to raise for a failed trigger or cancel: a 4xx is a refusal, except 429 and a refused key.

    A refused key is a fault of the connection, which the caller of our API cannot mend.
    """
    failed = failure.failed
    if failed.kind is FailureKind.UNAUTHORIZED:
        said = f"the provider refuses this connection's key: {failed.message}"
        return ProviderFailure(replace(failed, message=said), failure.code)
    if 400 <= (failed.status or 0) < 500 and failed.kind is not FailureKind.THROTTLED:
        return ProviderRefused(failed.message)
    return failure
