"""Errors as `application/problem+json` (RFC 9457): one table maps our errors to statuses."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from bridge.api.response_models import FieldProblem, ProblemAnswer
from bridge.domain.errors import (
    BridgeError,
    Conflict,
    InvalidInput,
    NotFound,
    NotJson,
    Problem,
    ProviderRefused,
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


# The caller can mend what a provider refuses, hence 422; 502 means no usable answer at all.
_STATUSES: tuple[tuple[type[BridgeError], int], ...] = (
    (InvalidInput, 422),
    (NotJson, 400),
    (NotFound, 404),
    (Conflict, 409),
    (Unsupported, 409),
    (ProviderRefused, 422),
    (StoreUnavailable, 503),
    (BridgeError, 502),  # ProviderFailed, and anything else that failed at a provider
)


def status_of(error: BridgeError) -> int:
    """The HTTP status of one of our errors."""
    if isinstance(error, Refusal):
        return error.status
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def headers_of(error: BridgeError) -> dict[str, str]:
    """Headers that go with the problem."""
    if isinstance(error, Refusal):
        return error.headers
    return {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, StoreUnavailable) else {}


def make_problem(
    status: int, detail: str, errors: Sequence[Problem] = (), request_id: str | None = None
) -> ProblemAnswer:
    """A problem; `errors` names the fields at fault, the first fifty."""
    return ProblemAnswer(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_text(detail if len(detail) <= DETAIL_CHARACTERS_MAX else detail[:DETAIL_CHARACTERS_MAX] + " …"),
        errors=[FieldProblem(field=_text(p.field[:200]), message=_text(p.message)) for p in errors[:ERRORS_SHOWN_MAX]],
        **{} if request_id is None else {"request_id": request_id},
    )


def problem_of(error: BridgeError, request_id: str | None = None) -> ProblemAnswer:
    """The problem document of one of our errors."""
    errors = error.problems if isinstance(error, InvalidInput) else ()
    return make_problem(status_of(error), str(error), errors, request_id)


def _text(text: str) -> str:
    """`text` as UTF-8 can hold it: a message may quote half a surrogate pair."""
    return text.encode(errors="replace").decode()
