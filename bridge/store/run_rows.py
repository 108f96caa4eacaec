"""A run as a row of `runs`: each field of `Run` is a column of the same name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.failure import FailureKind, LastError
from bridge.domain.frozen import replaced
from bridge.domain.run import NO_OVERRIDES, CadenceOverrides, Progress, Run, RunError, RunStatus
from bridge.store.column_types import Instant, reader_of

_FIELDS: Final = tuple(field.name for field in fields(Run))
_FIXED: Final = (  # at registration
    "id",
    "connection",
    "provider",
    "provider_run_id",
    "provider_ref",
    "registered_at",
    "metadata",
    "tags",
    "cadence",
    "deadline_is_fixed",
    "trace_context",
)
_NEW: Final = (*_FIXED, "workflow_id", "status_since", "deadline_at", "next_poll_at")
"""The columns in which new runs differ; the others have the defaults of `Run`."""
_CHANGING: Final = tuple(name for name in _FIELDS if name not in _FIXED)
_new_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*_NEW)
_changing_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*_CHANGING)


def _encode_progress(progress: Progress | None) -> dict[str, Any] | None:
    return {"completed": progress.completed, "total": progress.total} if progress else None


def _encode_error(error: RunError | None) -> dict[str, Any] | None:
    return {"message": error.message, "code": error.code, "step": error.step} if error else None


def encode_last_error(error: LastError | None) -> dict[str, Any] | None:
    """The value of the column `last_error`."""
    if error is None:
        return None
    return {"at": Instant.encode(error.at), "kind": error.kind.value, "message": error.message, "count": error.count}


def _decode_last_error(stored: dict[str, Any] | None) -> LastError | None:
    if stored is None:
        return None
    at = Instant.decode(stored["at"])
    assert at is not None
    return LastError(at, FailureKind(stored["kind"]), stored["message"], stored["count"])


def _encode_cadence(cadence: CadenceOverrides) -> dict[str, Any] | None:
    if cadence is NO_OVERRIDES:
        return None
    return {name: value for name in cadence.__slots__ if (value := getattr(cadence, name)) is not None} or None


_ENCODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "status": attrgetter("value"),
    "progress": _encode_progress,
    "error": _encode_error,
    "tags": list,
    "cadence": _encode_cadence,
    "last_error": encode_last_error,
}
_read = reader_of(
    Run,
    status=RunStatus,
    progress=lambda stored: Progress(**stored) if stored else None,
    error=lambda stored: RunError(**stored) if stored else None,
    tags=tuple,
    cadence=lambda stored: CadenceOverrides(**stored) if stored else NO_OVERRIDES,
    last_error=_decode_last_error,
)
_NEW_ENCODERS: Final = tuple((name, encode) for name, encode in _ENCODERS.items() if name in _NEW)
_CHANGING_ENCODERS: Final = tuple((name, encode) for name, encode in _ENCODERS.items() if name in _CHANGING)


def run_of(row: Any) -> Run:
    """The run in a row of `runs`."""
    run = _read(row)
    former = row.former_provider_run_id
    return run if former is None else replaced(run, provider_run_id=former)


def defaults_of_new_run() -> dict[str, sa.ColumnElement[Any]]:
    """The columns that every new run has alike, as literals: a bound value each would double the cost of the row."""
    defaults = {field.name: field.default for field in fields(Run) if field.name not in _NEW}
    return {name: _literal(value) for name, value in defaults.items() if value is not None}


def _literal(value: Any) -> sa.ColumnElement[Any]:
    if isinstance(value, bool):
        return sa.true() if value else sa.false()
    return sa.literal_column(f"'{value.value}'" if isinstance(value, RunStatus) else str(value))


def new_row_of(run: Run, leased_by: str | None) -> dict[str, Any]:
    """The row of a new run, without `defaults_of_new_run`."""
    row = dict(zip(_NEW, _new_of(run), strict=True))
    for name, encode in _NEW_ENCODERS:
        row[name] = encode(row[name])
    row["leased_by"] = leased_by
    return row


def changed_row_of(run: Run, *, keep_lease: bool) -> dict[str, Any]:
    """The columns that an observation may change, and `run_id`."""
    row = dict(zip(_CHANGING, _changing_of(run), strict=True))
    for name, encode in _CHANGING_ENCODERS:
        row[name] = encode(row[name])
    row["run_id"] = run.id
    if not keep_lease:
        row["leased_by"] = None
    return row
