"""What every provider can do, and the small pure pieces that they share.

A provider is one file with a pure `normalise` and one line in the registry. It never raises for what a
provider does while a run is fetched: that is a `PollFailed`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Final, Protocol, TypeGuard
from urllib.parse import quote

from bridge.domain.connection import Connection
from bridge.domain.errors import BadPayload, ProviderRefused, Unsupported
from bridge.domain.observation import FailureKind, Known, Observation, Observed, PollFailed, PollResult, RunPage
from bridge.domain.run import Json, Progress, RunError, RunStatus
from bridge.domain.strict_json import parse_json_text
from bridge.domain.timestamps import provider_instant
from bridge.providers.http import ProviderFailure, ProviderHttp

RUN_ID_CHARS_MAX: Final = 512
WORD_CHARS_MAX: Final = 200
ERROR_CHARS_MAX: Final = 4000
KNOWN_BYTES_MAX: Final = 1024  # of a body that is kept to be compared with the next: of thousands of runs at a time
ETAG_CHARS_MAX: Final = 200
_COUNT_MAX: Final = 2**53

JsonObject = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Triggered:
    """A run that was started. `provider_ref` is what cancelling needs besides the run's id, if anything."""

    provider_run_id: str
    provider_ref: str | None = None


class NoSuchRun(BadPayload):
    """The answer has the form of a run and says that there is none."""


class Provider(Protocol):
    """One kind of API. `http` is made by `open_http` for the connection in question."""

    name: str
    default_base_url: str
    lists: bool
    """Whether `list_runs` shows runs of every status, so that one request can observe many."""

    def base_url(self, connection: Connection) -> str:
        """The address that this provider's paths are appended to."""
        ...

    def headers(self, connection: Connection) -> dict[str, str]:
        """The headers that authenticate `connection`."""
        ...

    def check_run_id(self, provider_run_id: str) -> str | None:
        """A sentence if this can never be the id of a run here, else None."""
        ...

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, known: Known | None = None) -> PollResult:
        """One poll; whatever the provider does wrong comes back as `PollFailed`.

        `known`: an answer 304 is welcome, and means what is known.
        """
        ...

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """One page of runs, newest first: the first one, or that of a `next_cursor`. ProviderFailure without one.

        `since`: runs that began before it need not be shown. Unsupported where there is no such list.
        """
        ...

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """The output of a run whose observation said `output_is_elsewhere`; ProviderFailure if it cannot be had."""
        ...

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """Start a run. ProviderRefused when the provider says no, ProviderFailure when it could not be asked."""
        ...

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Ask for the run to be cancelled; watching tells whether it was. Unsupported where there is no way.

        ProviderRefused and ProviderFailure as with `trigger`.
        """
        ...

    async def check(self, http: ProviderHttp) -> None:
        """One real authenticated call; ProviderFailure unless the provider takes the key."""
        ...


class ProviderDefaults:
    """What most providers do alike; a provider overrides what it does differently."""

    name: str
    default_base_url: str
    lists: bool = False

    def base_url(self, connection: Connection) -> str:
        """The configured address as it is."""
        return connection.base_url

    def headers(self, connection: Connection) -> dict[str, str]:
        """The key as a bearer token."""
        return {"Authorization": f"Bearer {connection.api_key.reveal()}"}

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Any text that can stand in a path."""
        return check_id(provider_run_id)

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """Unsupported: the output comes with the run."""
        raise Unsupported(f"{self.name} sends a run's output with the run itself")

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """Unsupported: the API has no list, or one that does not show running runs."""
        raise Unsupported(f"{self.name} has no list of its running runs")

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """Unsupported: the API has no such call."""
        raise Unsupported(f"{self.name} has no call to cancel a run; cancel it there by hand")


async def fetch_normalised(
    http: ProviderHttp, path: str, normalise: Callable[[JsonObject], Observation], known: Known | None = None
) -> PollResult:
    """GET `path` and read its body with `normalise`; every fault becomes a `PollFailed`.

    A 304, or the bytes that came before, are what is `known`.
    """
    try:
        answer = await http.request(
            "GET", path, etag=known.etag if known else None, known=known.body if known else None
        )
    except ProviderFailure as failure:
        return failure.failed
    answered_at, etag = provider_instant(answer.headers.get("date")), etag_of(answer.headers)
    if known and answer.status == 304:
        return Observed(
            known.observation, answer.poll_after_s, answered_at, known.etag, is_unchanged=True, body=known.body
        )
    body = answer.data if len(answer.data) <= KNOWN_BYTES_MAX else None
    if known and answer.is_known:
        return Observed(known.observation, answer.poll_after_s, answered_at, etag, body=body)
    try:
        return Observed(normalise(json_object(answer.body)), answer.poll_after_s, answered_at, etag, body=body)
    except NoSuchRun as error:
        return PollFailed(FailureKind.NOT_FOUND, f"GET {path}: {error}"[:400], answer.status)
    except BadPayload as error:
        return PollFailed(FailureKind.BAD_PAYLOAD, f"GET {path}: {error}"[:400], answer.status)


def etag_of(headers: Mapping[str, str]) -> str | None:
    """The answer's ETag; None without one, and for what can hardly be meant as one."""
    etag = headers.get("etag", "").strip()
    return etag if 1 <= len(etag) <= ETAG_CHARS_MAX and etag.isascii() and etag.isprintable() else None


async def start_run(http: ProviderHttp, path: str, body: JsonObject) -> Triggered:
    """POST `body` and take the run's id from the `id` of the answer; errors as with `Provider.trigger`."""
    try:
        answer = await http.request("POST", path, json_body=body)
    except ProviderFailure as failure:
        raise refused_or_failed(failure) from None
    return Triggered(run_id_in(answer.body, "id", f"POST {path}"))


def run_id_in(body: Json, key: str, what: str) -> str:
    """The run id in the answer to a trigger; ProviderFailure if it holds none (a run may well have started)."""
    run_id = text_of(body.get(key)) if isinstance(body, dict) else None
    if run_id is None or check_id(run_id) is not None:
        message = f"{what}: the answer holds no run id; whether a run was started is not known"
        raise ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message[:400], 200))
    return run_id


def refused_or_failed(failure: ProviderFailure) -> ProviderRefused | ProviderFailure:
    """What to raise for a failed trigger or cancel: any 4xx is a no, except being told to slow down.

    A key that is refused is no answer to the one who asks, who cannot mend it.
    """
    failed = failure.failed
    if failed.kind is FailureKind.UNAUTHORIZED:
        said = f"the provider refuses this connection's key: {failed.message}"
        return ProviderFailure(replace(failed, message=said), failure.code)
    if 400 <= (failed.status or 0) < 500 and failed.kind is not FailureKind.THROTTLED:
        return ProviderRefused(failed.message)
    return failure


@lru_cache(maxsize=1024)
def segment(text: str) -> str:
    """`text` as one path segment: slashes, question marks and the like lose their meaning."""
    return quote(text, safe="", errors="replace")


def check_id(provider_run_id: str) -> str | None:
    """A sentence if no provider could have such an id, else None."""
    if not 1 <= len(provider_run_id) <= RUN_ID_CHARS_MAX:
        return f"a run id has 1 to {RUN_ID_CHARS_MAX} characters"
    if not provider_run_id.isprintable():  # also refuses lone surrogates, which no URL can hold
        return "a run id holds no control characters"
    if provider_run_id in (".", ".."):
        return "a run id is more than dots"
    return None


def status_of(word: Json, table: Mapping[str, RunStatus]) -> tuple[RunStatus, str]:
    """The canonical status and the provider's own word; unknown words are `RunStatus.UNKNOWN`.

    Compared without regard to case and surrounding blanks; BadPayload if there is no word at all.
    """
    if not isinstance(word, str) or not word.strip():
        raise BadPayload("the answer has no status")
    return table.get(word.strip().lower(), RunStatus.UNKNOWN), word[:WORD_CHARS_MAX]


def json_object(value: Json) -> JsonObject:
    """`value` if it is an object; BadPayload otherwise."""
    if not isinstance(value, dict):
        raise BadPayload("the answer is not a JSON object")
    return value


def object_or_empty(value: Json) -> JsonObject:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_of(value: Json) -> str | None:
    """`value` as an id or text: strings as they are, integers spelled out; None for everything else and blanks."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def first_told(*values: Json) -> Json:
    """The first that is not null."""
    return next((value for value in values if value is not None), None)


def unpacked(value: Json) -> Json:
    """The value behind JSON text; text that is no JSON stays what it is."""
    try:
        return parse_json_text(value) if isinstance(value, str) else value
    except BadPayload:
        return value


def progress_of(completed: Json, total: Json) -> Progress | None:
    """Progress from two counts, 0 of 0 too; None unless both are sensible numbers."""
    return Progress(completed, total) if _is_count(completed) and _is_count(total) else None


def error_of(value: Json) -> RunError | None:
    """A provider's error as text or object; an object without a message is shown as its JSON."""
    if isinstance(value, str):
        return RunError(value[:ERROR_CHARS_MAX]) if value.strip() else None
    if not isinstance(value, dict) or not value:
        return None
    message = text_of(value.get("message")) or json.dumps(value, ensure_ascii=False)
    return RunError(message[:ERROR_CHARS_MAX], short_text(value.get("code")), short_text(value.get("step")))


def short_text(value: Json) -> str | None:
    """A name or code, cut to a length that fits a line."""
    text = text_of(value)
    return text and text[:WORD_CHARS_MAX]


def _is_count(value: Json) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 <= value <= _COUNT_MAX
