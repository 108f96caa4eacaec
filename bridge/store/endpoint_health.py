"""How an endpoint stands: what an answer means for the endpoint as a whole, beyond the one delivery.

Its pace, its row of failed attempts, and with the rule of `domain.auto_disable` its end. A one-run endpoint has a pace
too, but is never switched off: its few deliveries are exhausted by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.auto_disable import RULE, AutoDisableStep, FailureStreak, describe, failing_after, next_step
from bridge.domain.delivery import Outcome, PostResult
from bridge.domain.endpoint import EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff, backoff_after
from bridge.domain.event import EventType
from bridge.store.endpoints import disable_endpoint, get_endpoint
from bridge.store.events import record_endpoint_event
from bridge.store.prepared_statements import fetch
from bridge.store.tables import endpoints
from bridge.store.transaction import Tx

GONE = "its receiver answered 410 Gone"
_NOBODYS_FAULT = frozenset({Outcome.INTERRUPTED, Outcome.UNSIGNED})
_COLUMNS = (
    endpoints.c.id,
    endpoints.c.source,
    endpoints.c.enabled,
    endpoints.c.failures,
    endpoints.c.slowdowns,
    endpoints.c.paused_until,
    endpoints.c.probe_at,
    endpoints.c.failing_since,
    endpoints.c.failing_attempts,
    endpoints.c.warned_at,
)
READ: Final[sa.Select[Any]] = (
    sa.select(*_COLUMNS)
    .where(endpoints.c.id.in_(sa.bindparam("ids", expanding=True)), endpoints.c.deleted_at.is_(None))
    .order_by(endpoints.c.id)
)
_READ_TO_CHANGE: Final = READ.with_for_update()


@dataclass(frozen=True, slots=True)
class HealthChange:
    """What changed about an endpoint, for the log and the counters."""

    before: EndpointBackoff
    after: EndpointBackoff
    step: AutoDisableStep = AutoDisableStep.NOTHING
    cause: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class _Present:
    """An endpoint as the answers so far leave it."""

    backoff: EndpointBackoff
    failing: FailureStreak | None
    may_be_disabled: bool


def apply_result(tx: Tx, endpoint_id: str, answer: PostResult) -> HealthChange | None:
    """Take in one answer; see `apply_results`."""
    return apply_results(tx, [(endpoint_id, answer)])[0]


def apply_results(tx: Tx, answers: Sequence[tuple[str, PostResult]]) -> list[HealthChange | None]:
    """Take in answers by endpoint, in this order; writes nothing about an endpoint that is well.

    None for each that says nothing about its endpoint.
    """
    telling = [(endpoint_id, answer) for endpoint_id, answer in answers if answer.outcome not in _NOBODYS_FAULT]
    query = READ if all(answer.outcome is Outcome.DELIVERED for _, answer in telling) else _READ_TO_CHANGE
    rows = fetch(tx, query, {"ids": sorted({endpoint_id for endpoint_id, _ in telling})}) if telling else ()
    known = {row.id: _Present(backoff_of(row), _failing_of(row), _may_be_disabled(row)) for row in rows}
    return [
        _note(tx, endpoint_id, known[endpoint_id], answer)
        if endpoint_id in known and answer.outcome not in _NOBODYS_FAULT
        else None
        for endpoint_id, answer in answers
    ]


def _note(tx: Tx, endpoint_id: str, present: _Present, answer: PostResult) -> HealthChange:
    before, failing = present.backoff, present.failing
    present.backoff = backoff_after(before, answer, now=tx.now)
    present.failing = None if answer.outcome is Outcome.DELIVERED else failing_after(failing, at=tx.now)
    if (present.backoff, present.failing) != (before, failing):
        _store(tx, endpoint_id, _values(present.backoff, present.failing))
    note = HealthChange(before, present.backoff)
    if present.failing is None or not present.may_be_disabled:
        return note
    note = _judge(tx, endpoint_id, note, present.failing, is_gone=answer.outcome is Outcome.GONE)
    present.may_be_disabled = note.step is not AutoDisableStep.DISABLE
    if note.step is AutoDisableStep.WARN:
        present.failing = replace(present.failing, warned_at=tx.now)
    return note


def _may_be_disabled(row: Any) -> bool:
    return bool(row.enabled) and row.source != EndpointSource.RUN.value


def backoff_of(row: Any) -> EndpointBackoff:
    """The pace in a row that has its columns."""
    return EndpointBackoff(row.failures, row.slowdowns, row.paused_until, row.probe_at)


def _judge(tx: Tx, endpoint_id: str, note: HealthChange, failing: FailureStreak, *, is_gone: bool) -> HealthChange:
    if is_gone:
        return _disable(tx, endpoint_id, note, "gone", GONE)
    match next_step(failing, now=tx.now):
        case AutoDisableStep.DISABLE:
            return _disable(tx, endpoint_id, note, "failing", f"{describe(failing)} ({RULE})")
        case AutoDisableStep.WARN:
            reason = f"{describe(failing)}; it will be switched off when {RULE}"
            _store(tx, endpoint_id, {"warned_at": tx.now})
            _tell(tx, EventType.ENDPOINT_FAILING, endpoint_id, reason)
            return HealthChange(note.before, note.after, AutoDisableStep.WARN, "failing", reason)
        case AutoDisableStep.NOTHING:
            return note


def _disable(tx: Tx, endpoint_id: str, note: HealthChange, cause: str, reason: str) -> HealthChange:
    disable_endpoint(tx, endpoint_id, reason)
    _tell(tx, EventType.ENDPOINT_DISABLED, endpoint_id, reason)
    return HealthChange(note.before, note.after, AutoDisableStep.DISABLE, cause, reason)


def _tell(tx: Tx, event_type: EventType, endpoint_id: str, reason: str) -> None:
    endpoint = get_endpoint(tx, endpoint_id)
    if endpoint is not None:
        record_endpoint_event(tx, event_type, endpoint, reason)


def _failing_of(row: Any) -> FailureStreak | None:
    return None if row.failing_since is None else FailureStreak(row.failing_since, row.failing_attempts, row.warned_at)


def _values(backoff: EndpointBackoff, failing: FailureStreak | None) -> dict[str, Any]:
    return {
        "failures": backoff.failures,
        "slowdowns": backoff.slowdowns,
        "paused_until": backoff.paused_until,
        "probe_at": backoff.probe_at,
        "failing_since": failing and failing.since,
        "failing_attempts": failing.attempts if failing else 0,
        "warned_at": failing and failing.warned_at,
    }


def _store(tx: Tx, endpoint_id: str, values: dict[str, Any]) -> None:
    tx.connection.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(values))
