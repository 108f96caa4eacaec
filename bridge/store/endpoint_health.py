"""Endpoint health: how one attempt's result changes back-off, failure streak and enabled state.

`domain.auto_disable` says when an endpoint is disabled. A one-run endpoint has a back-off too, but is never disabled:
its few deliveries end with their retry schedule.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.auto_disable import RULE, AutoDisableStep, FailureStreak, describe, failing_after, next_step
from bridge.domain.delivery import Outcome, PostResult
from bridge.domain.endpoint import EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff, backoff_after
from bridge.domain.event import EventType
from bridge.store.endpoint_rows import backoff_of, health_values
from bridge.store.endpoints import QUIET, disable_endpoint, forget_listeners, get_endpoint
from bridge.store.events import record_endpoint_event
from bridge.store.postgres.one_statement import Check, NeedsTransaction
from bridge.store.prepared_statements import fetch
from bridge.store.tables import endpoints
from bridge.store.transaction import Tx

_QUIET_MAX: Final = 1_000  # endpoints remembered as healthy
GONE = "its receiver answered 410 Gone"
_SAYS_NOTHING = frozenset({Outcome.INTERRUPTED, Outcome.UNSIGNED})
_COLUMNS = (
    endpoints.c.id,
    endpoints.c.source,
    endpoints.c.enabled,
    endpoints.c.ordered,
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
# A lock of the rows, because a change of `ordered` that has just been committed must be seen. A state of health is not
# written while an endpoint stays healthy.
_HEALTHY: Final = Check(
    "SELECT count(*) = cardinality({ids}) FROM (SELECT id FROM endpoints WHERE {before} AND id = ANY ({ids}) "
    "AND deleted_at IS NULL AND enabled AND NOT ordered AND failures = 0 AND slowdowns = 0 AND paused_until IS NULL "
    "AND probe_at IS NULL AND failing_since IS NULL ORDER BY id FOR SHARE) AS healthy",
    (("ids", "text[]"),),
)


@dataclass(frozen=True, slots=True)
class HealthChange:
    """The change that one result made, for the log and the counters."""

    before: EndpointBackoff
    after: EndpointBackoff
    step: AutoDisableStep = AutoDisableStep.NOTHING
    cause: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class _Health:
    """An endpoint after the results so far."""

    backoff: EndpointBackoff
    failing: FailureStreak | None
    may_be_disabled: bool


def are_healthy(tx: Tx, endpoint_ids: Collection[str]) -> bool:
    """Whether these endpoints are enabled, without order, and had no failure since the last success.

    False also if that would have to be read: SQLite's writer remembers it until an endpoint changes. A transaction of one
    statement takes it for granted and checks it.
    """
    if tx.statement is None:
        return tx.driver is not None and tx.cache.get(QUIET, frozenset()).issuperset(endpoint_ids)
    tx.statement.check(_HEALTHY, sorted(set(endpoint_ids)))
    return True


def apply_result(tx: Tx, endpoint_id: str, answer: PostResult) -> HealthChange | None:
    """Apply one result; see `apply_results`."""
    return apply_results(tx, [(endpoint_id, answer)])[0]


def apply_results(tx: Tx, results: Sequence[tuple[str, PostResult]]) -> list[HealthChange | None]:
    """Apply results by endpoint, in this order. Nothing is written while an endpoint stays healthy.

    The answer holds None for a result that says nothing about its endpoint.
    """
    all_delivered = all(answer.outcome is Outcome.DELIVERED for _, answer in results)
    if tx.statement is not None and not all_delivered:
        raise NeedsTransaction("an endpoint fails")
    if all_delivered and are_healthy(tx, {endpoint_id for endpoint_id, _ in results}):
        return [HealthChange(EndpointBackoff(), EndpointBackoff())] * len(results)
    relevant = [(endpoint_id, answer) for endpoint_id, answer in results if answer.outcome not in _SAYS_NOTHING]
    query = READ if all(answer.outcome is Outcome.DELIVERED for _, answer in relevant) else _READ_TO_CHANGE
    rows = fetch(tx, query, {"ids": sorted({endpoint_id for endpoint_id, _ in relevant})}) if relevant else ()
    present = {row.id: _Health(backoff_of(row), _failing_of(row), _may_be_disabled(row)) for row in rows}
    if tx.driver is not None:
        quiet = tx.cache.get(QUIET, frozenset()).union(row.id for row in rows if _is_quiet(row))
        tx.cache[QUIET] = quiet if len(quiet) <= _QUIET_MAX else frozenset()
    return [
        _apply(tx, endpoint_id, present[endpoint_id], answer)
        if endpoint_id in present and answer.outcome not in _SAYS_NOTHING
        else None
        for endpoint_id, answer in results
    ]


def _apply(tx: Tx, endpoint_id: str, endpoint: _Health, answer: PostResult) -> HealthChange:
    before, failing = endpoint.backoff, endpoint.failing
    endpoint.backoff = backoff_after(before, answer, now=tx.now)
    endpoint.failing = None if answer.outcome is Outcome.DELIVERED else failing_after(failing, at=tx.now)
    if (endpoint.backoff, endpoint.failing) != (before, failing):
        _store(tx, endpoint_id, health_values(endpoint.backoff, endpoint.failing))
    change = HealthChange(before, endpoint.backoff)
    if endpoint.failing is None or not endpoint.may_be_disabled:
        return change
    change = _judge(tx, endpoint_id, change, endpoint.failing, is_gone=answer.outcome is Outcome.GONE)
    endpoint.may_be_disabled = change.step is not AutoDisableStep.DISABLE
    if change.step is AutoDisableStep.WARN:
        endpoint.failing = replace(endpoint.failing, warned_at=tx.now)
    return change


def _is_quiet(row: Any) -> bool:
    return row.enabled and not row.ordered and row.failing_since is None and backoff_of(row) == EndpointBackoff()


def _may_be_disabled(row: Any) -> bool:
    return bool(row.enabled) and row.source != EndpointSource.RUN.value


def _judge(tx: Tx, endpoint_id: str, change: HealthChange, failing: FailureStreak, *, is_gone: bool) -> HealthChange:
    if is_gone:
        return _disable(tx, endpoint_id, change, "gone", GONE)
    match next_step(failing, now=tx.now):
        case AutoDisableStep.DISABLE:
            return _disable(tx, endpoint_id, change, "failing", f"{describe(failing)} ({RULE})")
        case AutoDisableStep.WARN:
            reason = f"{describe(failing)}; it will be switched off when {RULE}"
            _store(tx, endpoint_id, {"warned_at": tx.now})
            _record_event(tx, EventType.ENDPOINT_FAILING, endpoint_id, reason)
            return HealthChange(change.before, change.after, AutoDisableStep.WARN, "failing", reason)
        case AutoDisableStep.NOTHING:
            return change


def _disable(tx: Tx, endpoint_id: str, change: HealthChange, cause: str, reason: str) -> HealthChange:
    disable_endpoint(tx, endpoint_id, reason)
    _record_event(tx, EventType.ENDPOINT_DISABLED, endpoint_id, reason)
    return HealthChange(change.before, change.after, AutoDisableStep.DISABLE, cause, reason)


def _record_event(tx: Tx, event_type: EventType, endpoint_id: str, reason: str) -> None:
    endpoint = get_endpoint(tx, endpoint_id)
    if endpoint is not None:
        record_endpoint_event(tx, event_type, endpoint, reason)


def _failing_of(row: Any) -> FailureStreak | None:
    return None if row.failing_since is None else FailureStreak(row.failing_since, row.failing_attempts, row.warned_at)


def _store(tx: Tx, endpoint_id: str, values: dict[str, Any]) -> None:
    forget_listeners(tx)
    tx.connection.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(values))
