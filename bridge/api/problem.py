"""Errors as `application/problem+json` (RFC 9457): one table of kinds, and one that maps our errors to them.

The `type` of a problem is the address of its section on the page `/errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Final

from bridge.api.response_models import FieldProblem, ProblemAnswer
from bridge.domain.errors import (
    BridgeError,
    Conflict,
    InvalidInput,
    NotFound,
    NotJson,
    Problem,
    ProviderRefused,
    StartUnknown,
    StoreUnavailable,
    Unsupported,
)

CONTENT_TYPE = "application/problem+json"
ERRORS_SHOWN_MAX = 50
DETAIL_CHARACTERS_MAX = 2000
RETRY_AFTER_S = 5  # a full or locked database rarely heals faster


class Refusal(BridgeError):
    """A request that never reaches its handler: wrong token, host, type, size."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """A kind of error: its name in `type`, its HTTP status, what it means and what to do."""

    name: str
    status: int
    meaning: str
    remedy: str

    @property
    def type(self) -> str:
        """Where it is explained."""
        return f"/errors#{self.name}"


KINDS: Final = tuple(
    ErrorKind(*each)
    for each in (
        ("bad-request", 400, "The request is not HTTP, or its body not JSON, that every reader understands alike.",
         "Send one JSON document in UTF-8 without repeated names, and an address of plain characters."),
        ("unauthorized", 401, "The token is missing or wrong, or the session has ended.",
         "Send `Authorization: Bearer TOKEN` with [server] api_token or a token of [server.tokens.NAME]; in the dashboard, sign in again."),
        ("forbidden", 403, "The scope of the token or of the session does not cover this.",
         "Use a token with the scope that `detail` names."),
        ("not-found", 404, "There is no such run, endpoint, event, delivery, connection or address.",
         "Check the id; settled runs are deleted after [retention] keep. `/openapi.json` has every address."),
        ("method-not-allowed", 405, "The address exists, but not for this method.", "Use a method that the header `Allow` names."),
        ("too-slow", 408, "The body did not arrive in time.", "Send it again; the connection is too slow for it."),
        ("conflict", 409, "The thing is not in a state that allows this, or a request with the same `Idempotency-Key` is under way.",
         "Read `detail`. An endpoint of the configuration file is changed there; for a request under way, wait and ask again."),
        ("unsupported", 409, "The provider has no such operation.", "Do it at the provider, or leave it out."),
        ("too-large", 413, "The body is larger than [server] body_bytes_max (4 MiB; 8 MiB for a batch).", "Send less, or raise the limit."),
        ("wrong-type", 415, "The body is not `application/json`, or compressed.", "Send it uncompressed with `Content-Type: application/json`."),
        ("wrong-host", 421, "The daemon does not answer for this host name.", "Add the name to [server] allowed_hosts."),
        ("invalid-input", 422, "Something given is wrong; `errors` names every field at fault.", "Correct these fields and send it again."),
        ("provider-refused", 422, "The provider refused a trigger or a cancel.", "Read `detail`, which quotes the provider."),
        ("too-many-requests", 429, "Too many sign-ins from this address are under way.", "Wait as long as `Retry-After` says."),
        ("internal-error", 500, "A fault in runbridge; nothing is said about whether the request had an effect.",
         "The log has more under the request's id; please report it."),
        ("provider-failed", 502, "The provider gave no answer that could be used.", "Try again; `runbridge connections check NAME` looks at the connection."),
        ("start-unknown", 502, "Whether the provider started a run is not known. The same `Idempotency-Key` gets this answer again and starts nothing.",
         "Look at the provider: register a run that did start with its `provider_run_id`, or try again with a new key."),
        ("unavailable", 503, "The database cannot be used at the moment; nothing was changed.",
         "Ask again after `Retry-After`; `runbridge doctor` says what is wrong."),
    )
)  # fmt: skip
_BY_NAME: Final = {kind.name: kind for kind in KINDS}
_BY_STATUS: Final = {kind.status: kind for kind in reversed(KINDS)}

# The caller can mend what a provider refuses, hence 422; 502 means no usable answer at all.
_KIND_OF: Final[tuple[tuple[type[BridgeError], str], ...]] = (
    (InvalidInput, "invalid-input"),
    (NotJson, "bad-request"),
    (NotFound, "not-found"),
    (Conflict, "conflict"),
    (Unsupported, "unsupported"),
    (ProviderRefused, "provider-refused"),
    (StoreUnavailable, "unavailable"),
    (StartUnknown, "start-unknown"),
    (BridgeError, "provider-failed"),  # and anything else that failed at a provider
)


def kind_of(error: BridgeError) -> ErrorKind:
    """The kind of one of our errors."""
    if isinstance(error, Refusal):
        return kind_for(error.status)
    return _BY_NAME[next(name for kind, name in _KIND_OF if isinstance(error, kind))]


def kind_for(status: int) -> ErrorKind:
    """The kind of an error of which only the status is known."""
    return _BY_STATUS.get(status) or _BY_STATUS[400 if status < 500 else 500]


def errors_page() -> bytes:
    """The page `/errors`: a section for each kind."""
    sections = "".join(
        f'<h2 id="{kind.name}">{kind.name} ({kind.status})</h2>\n<p>{escape(kind.meaning)}</p>\n<p>{escape(kind.remedy)}</p>\n'
        for kind in KINDS
    )
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Errors of runbridge</title></head>\n<body>\n'
    return f"{head}<h1>Errors</h1>\n{sections}</body></html>\n".encode()


def status_of(error: BridgeError) -> int:
    """The HTTP status of one of our errors."""
    return error.status if isinstance(error, Refusal) else kind_of(error).status


def headers_of(error: BridgeError) -> dict[str, str]:
    """Headers that go with the problem."""
    if isinstance(error, Refusal):
        return error.headers
    return {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, StoreUnavailable) else {}


def make_problem(
    status: int,
    detail: str,
    errors: Sequence[Problem] = (),
    request_id: str | None = None,
    kind: ErrorKind | None = None,
) -> ProblemAnswer:
    """A problem; `errors` names the fields at fault, the first fifty."""
    return ProblemAnswer(
        type=(kind or kind_for(status)).type,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_text(detail if len(detail) <= DETAIL_CHARACTERS_MAX else detail[:DETAIL_CHARACTERS_MAX] + " …"),
        errors=[FieldProblem(field=_text(p.field[:200]), message=_text(p.message)) for p in errors[:ERRORS_SHOWN_MAX]],
        **{} if request_id is None else {"request_id": request_id},
    )


def problem_of(error: BridgeError, request_id: str | None = None) -> ProblemAnswer:
    """The problem document of one of our errors."""
    errors = error.problems if isinstance(error, InvalidInput) else ()
    return make_problem(status_of(error), str(error), errors, request_id, kind_of(error))


def _text(text: str) -> str:
    """`text` as UTF-8 can hold it: a message may quote half a surrogate pair."""
    return text.encode(errors="replace").decode()
