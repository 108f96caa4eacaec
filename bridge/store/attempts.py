"""Attempts: record the result of each POST together with the new state of its delivery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.delivery import Attempt, Delivery, DeliveryState, Lane, Outcome, PostResult, retry_while_starting
from bridge.domain.frozen import frozen
from bridge.domain.ids import new_id
from bridge.store.endpoint_health import are_healthy
from bridge.store.ordering import lock_runs, release_next
from bridge.store.postgres.one_statement import Check, NeedsTransaction
from bridge.store.prepared_statements import execute_each, execute_many, fetch
from bridge.store.tables import attempts, deliveries, endpoints
from bridge.store.transaction import Tx


@frozen
class AttemptResult:
    """One attempt to record: the receiver's answer, and the state that the delivery gets.

    `is_extra`: the next attempt comes beside those of the schedule, so this one uses up none.
    """

    delivery: Delivery
    at: datetime
    answer: PostResult
    state: DeliveryState
    next_attempt_at: datetime | None
    is_extra: bool = False

    def sooner(self, at: datetime) -> AttemptResult:
        """The same with an extra attempt at this instant."""
        return AttemptResult(self.delivery, self.at, self.answer, self.state, at, is_extra=True)


PRESENT = (
    sa.select(deliveries.c.id, deliveries.c.attempts, deliveries.c.leased_by, deliveries.c.state)
    .where(deliveries.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(deliveries.c.id)
)
SETTINGS = sa.select(endpoints.c.id, endpoints.c.ordered, endpoints.c.enabled).where(
    endpoints.c.id.in_(sa.bindparam("ids", expanding=True))
)
OLDEST = (
    sa.select(deliveries.c.last_status)
    .where(deliveries.c.endpoint_id == sa.bindparam("endpoint"))
    .order_by(deliveries.c.endpoint_id, deliveries.c.id)
    .limit(20)
)
_OURS = Check(
    "SELECT count(*) = cardinality({ids}) FROM (SELECT d.id FROM unnest({ids}, {attempts}) AS g(id, attempts) "
    "JOIN deliveries d ON d.id = g.id WHERE {before} AND d.leased_by IS NOT DISTINCT FROM {node} AND d.attempts = g.attempts "
    "AND d.state = 'pending' ORDER BY d.id FOR UPDATE OF d) AS locked",
    (("node", "text"), ("ids", "text[]"), ("attempts", "integer[]")),
)
_THIS = sa.update(deliveries).where(deliveries.c.id == sa.bindparam("delivery"))
_RELEASE = _THIS.values(leased_by=None)
_CHANGED: Final = ("state", "attempts", "failures", "next_attempt_at", "settled_at", "last_outcome", "last_status")
_SETTLE = _THIS.values(
    leased_by=None, lane=Lane.AGAIN.value, **{name: sa.bindparam(f"new_{name}") for name in _CHANGED}
)
_SETTLE_IF_OURS = _SETTLE.where(
    deliveries.c.leased_by == sa.bindparam("node"),
    deliveries.c.attempts == sa.bindparam("old_attempts"),
    deliveries.c.state == DeliveryState.PENDING.value,
)
_INSERT_ATTEMPTS = sa.insert(attempts)
_ANSWER: Final = ("duration_ms", "status", "detail", "head", "head_is_truncated", "peer", "phases")
_answer_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*_ANSWER)


@frozen
class _Present:
    """A row of `PRESENT` that is taken for granted."""

    attempts: int
    leased_by: str
    state: str = DeliveryState.PENDING.value


@frozen
class _Setting:
    """A row of `SETTINGS` that is taken for granted."""

    ordered: bool
    enabled: bool


@frozen
class _Recording:
    """One result as it can be recorded; `settles` unless another writer has settled the delivery.

    The endpoint's present settings count, not those from when the delivery was leased.
    """

    result: AttemptResult
    settles: bool
    is_ordered: bool
    is_enabled: bool

    @property
    def next_attempt_at(self) -> datetime | None:
        return self.result.next_attempt_at if self.settles and self.is_enabled else None

    @property
    def releases(self) -> bool:
        """Whether the next event of its run becomes due."""
        is_over = self.result.state is not DeliveryState.PENDING
        return self.settles and is_over and self.is_ordered and self.is_enabled and bool(self.result.delivery.run_id)


def retry_sooner(tx: Tx, results: Sequence[AttemptResult]) -> list[AttemptResult]:
    """These results, with a sooner retry where the endpoint's receiver is perhaps still starting: it never answered."""
    soon = [retry_while_starting(r.delivery, r.answer, r.next_attempt_at, now=tx.now) for r in results]
    refused = {r.delivery.endpoint_id for r, at in zip(results, soon, strict=True) if at is not None}
    if not refused:
        return list(results)
    if tx.statement is not None:
        raise NeedsTransaction("a receiver refuses")
    silent = {endpoint_id for endpoint_id in sorted(refused) if not _has_answered(tx, endpoint_id)}
    return [
        result if at is None or result.delivery.endpoint_id not in silent else result.sooner(at)
        for result, at in zip(results, soon, strict=True)
    ]


def _has_answered(tx: Tx, endpoint_id: str) -> bool:
    """Whether one of its oldest deliveries brought an HTTP status; of an endpoint that works all of them did."""
    oldest = fetch(tx, OLDEST, {"endpoint": endpoint_id})
    return any(row.last_status is not None for row in oldest)


def lock_ordering(tx: Tx, results: Sequence[AttemptResult]) -> None:
    """Take the locks of `ordering.lock_runs`. Call it first in a transaction that records attempts."""
    if tx.is_postgresql:
        _lock_runs(tx, results, _read_settings(tx, results))


def _read_settings(tx: Tx, results: Sequence[AttemptResult]) -> dict[str, Any]:
    ids = sorted({result.delivery.endpoint_id for result in results})
    if are_healthy(tx, ids):
        return dict.fromkeys(ids, _Setting(ordered=False, enabled=True))
    return {row.id: row for row in fetch(tx, SETTINGS, {"ids": ids})}


def _lock_runs(tx: Tx, results: Sequence[AttemptResult], settings: Mapping[str, Any]) -> None:
    pairs = [(result.delivery.endpoint_id, result.delivery.run_id) for result in results]
    lock_runs(tx, [each for each in pairs if each[0] in settings and settings[each[0]].ordered])


def record_attempts(tx: Tx, *, node: str, results: Sequence[AttemptResult]) -> list[bool]:
    """Record attempts of different deliveries with their new states. The answer says of each whether it was recorded.

    A delivery that `node` no longer leases stays as it is: the node that leases it now makes its own attempt.
    """
    present = _lock(tx, results, node)  # before the endpoints are read: a change of one waits for these rows
    settings = _read_settings(tx, results)
    _lock_runs(tx, results, settings)  # again, for an endpoint that has just become ordered
    recordings = _recordings(results, present, settings, node)
    if tx.driver is None:
        execute_many(tx, _SETTLE, [_changed_row(tx, each) for each in recordings if each.settles])
    else:
        recordings = _settled_on_sqlite(tx, recordings, settings, node)
    _write(tx, recordings)
    ours = {recording.result.delivery.id for recording in recordings}
    return [result.delivery.id in ours for result in results]


def _lock(tx: Tx, results: Sequence[AttemptResult], node: str) -> dict[str, Any]:
    """The rows of the deliveries; what is to be compared later (on SQLite, and in one statement) is taken for granted."""
    if tx.is_postgresql and tx.statement is None:
        return _read_present(tx, PRESENT.with_for_update(), results)
    present = {r.delivery.id: _Present(r.delivery.attempts, node) for r in results}
    if tx.statement is not None:
        tx.statement.check(_OURS, node, list(present), [row.attempts for row in present.values()])
    return dict(present)


def _read_present(tx: Tx, query: sa.Select[Any], results: Sequence[AttemptResult]) -> dict[str, Any]:
    return {row.id: row for row in fetch(tx, query, {"ids": [r.delivery.id for r in results]})}


def _recordings(
    results: Sequence[AttemptResult], present: Mapping[str, Any], settings: Mapping[str, Any], node: str
) -> list[_Recording]:
    """The attempts that can be recorded, by the rows of the deliveries and the settings of the endpoints."""
    found: list[_Recording] = []
    for result in results:
        row, setting = present.get(result.delivery.id), settings.get(result.delivery.endpoint_id)
        if row is not None and _is_ours(row, result.delivery, node):
            settles = row.state == DeliveryState.PENDING.value
            found.append(
                _Recording(result, settles, bool(setting and setting.ordered), bool(setting and setting.enabled))
            )
    return found


def _settled_on_sqlite(
    tx: Tx, recordings: Sequence[_Recording], settings: Mapping[str, Any], node: str
) -> list[_Recording]:
    """Compare and set in one step; only the deliveries that are not as they are taken to be are read."""
    rows = [
        {**_changed_row(tx, each), "node": node, "old_attempts": each.result.delivery.attempts} for each in recordings
    ]
    is_settled = execute_each(tx, _SETTLE_IF_OURS, rows)
    settled = [each for each, done in zip(recordings, is_settled, strict=True) if done]
    others = [each.result for each, done in zip(recordings, is_settled, strict=True) if not done]
    return settled + _recordings(others, _read_present(tx, PRESENT, others) if others else {}, settings, node)


def _is_ours(row: Any, delivery: Delivery, node: str) -> bool:
    """False also if `attempts` differs: then a commit whose acknowledgement was lost has recorded it."""
    return bool(row.leased_by == node and row.attempts == delivery.attempts)


def _write(tx: Tx, recordings: Sequence[_Recording]) -> None:
    execute_many(tx, _RELEASE, [{"delivery": each.result.delivery.id} for each in recordings if not each.settles])
    execute_many(tx, _INSERT_ATTEMPTS, [_attempt_row(each) for each in recordings])
    for each in recordings:
        if each.releases and each.result.delivery.run_id:
            release_next(tx, each.result.delivery.endpoint_id, each.result.delivery.run_id)


def _changed_row(tx: Tx, recording: _Recording) -> dict[str, Any]:
    result, delivery = recording.result, recording.result.delivery
    return {
        "delivery": delivery.id,
        "new_state": result.state.value,
        "new_attempts": delivery.attempts + 1,
        "new_failures": delivery.failures + (0 if result.is_extra or result.answer.outcome is Outcome.DELIVERED else 1),
        "new_next_attempt_at": recording.next_attempt_at,
        "new_settled_at": None if result.state is DeliveryState.PENDING else tx.now,
        "new_last_outcome": result.answer.outcome.value,
        "new_last_status": result.answer.status,
    }


def _attempt_row(recording: _Recording) -> dict[str, Any]:
    result, answer = recording.result, recording.result.answer
    return {
        "id": new_id("att"),
        "delivery_id": result.delivery.id,
        "number": result.delivery.attempts + 1,
        "at": result.at,
        "outcome": answer.outcome.value,
        **dict(zip(_ANSWER, _answer_of(answer), strict=True)),
        "is_manual": result.delivery.is_manual,
        "next_attempt_at": recording.next_attempt_at,
    }


def list_attempts(tx: Tx, delivery_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    """The attempts of deliveries, oldest first."""
    query = (
        sa.select(attempts).where(attempts.c.delivery_id.in_(delivery_ids)).order_by(attempts.c.number, attempts.c.id)
    )
    found: dict[str, list[Attempt]] = {}
    for row in tx.connection.execute(query):
        found.setdefault(row.delivery_id, []).append(_attempt_of(row))
    return found


def _attempt_of(row: sa.Row[Any]) -> Attempt:
    kept = dict(zip(_ANSWER, _answer_of(row), strict=True))
    answer = PostResult(outcome=Outcome(row.outcome), **{**kept, "head": row.head or b"", "phases": row.phases or {}})
    return Attempt(row.id, row.delivery_id, row.number, row.at, answer, row.is_manual, row.next_attempt_at)
