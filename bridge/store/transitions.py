"""Recording what happened to runs: run, transition, events and deliveries in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from bridge.domain.event import Event, run_event
from bridge.domain.frozen import frozen, replaced
from bridge.domain.ids import new_id
from bridge.domain.run import Run
from bridge.domain.transition import Decision
from bridge.store.events import record_events
from bridge.store.prepared import execute_many, fetch
from bridge.store.run_row import CHANGING, values_of
from bridge.store.tables import runs, transitions
from bridge.store.transaction import Tx


@frozen
class Change:
    """A decision about a run as it was when it was made."""

    before: Run
    decision: Decision


def _update(*, keeps: bool) -> sa.Update:
    values: dict[str, object] = {name: sa.bindparam(f"v_{name}") for name in (*CHANGING, "version")}
    if not keeps:
        values["leased_by"] = None
    return sa.update(runs).where(runs.c.id == sa.bindparam("b_id")).values(values)


_NAMES = tuple(f"v_{name}" for name in CHANGING)
# Made once: SQLAlchemy spends four times longer on making a statement than SQLite on doing it.
_UPDATE_KEEPING, _UPDATE_LEAVING = _update(keeps=True), _update(keeps=False)
_INSERT_TRANSITIONS = sa.insert(transitions)
_PRESENT = sa.select(runs.c.id, runs.c.version, runs.c.leased_by).where(
    runs.c.id.in_(sa.bindparam("ids", expanding=True))
)


def record(tx: Tx, before: Run, decision: Decision, *, node: str | None, keep: bool) -> Run | None:
    """Make `decision` about `before` true and tell it; see `record_all`."""
    return record_all(tx, [Change(before, decision)], node=node, keep=keep)[0]


def record_all(tx: Tx, changes: Sequence[Change], *, node: str | None, keep: bool) -> list[Run | None]:
    """Make decisions about different runs true and tell them.

    1. Compare and set: only a run's present version, and only under our claim when `node` is given. The rows
       are locked while they are compared (on SQLite the whole database is).
    2. The transition, if the status changed.
    3. The events with their final bytes, numbered on from the run's last; one delivery per endpoint that wants each.
    `keep`: go on holding the claims. Answers each run as it is now, or None when somebody else was faster
    or the run is no longer watched.
    """
    ours = _ours(tx, changes, node)
    made = {change.before.id: _after(change) for change in changes if change.before.id in ours}
    valid = [change for change in changes if change.before.id in made]
    _update_runs(tx, list(made.values()), keep=keep)
    moved = [change for change in valid if change.decision.status_changed]
    if moved:
        execute_many(tx, _INSERT_TRANSITIONS, [_transition(tx, c.before, made[c.before.id]) for c in moved])
    record_events(tx, [event for change in valid for event in _events(tx, change, made[change.before.id])])
    tx.signals.settled_run_ids |= {run.id for run in made.values() if run.settled}
    return [made.get(change.before.id) for change in changes]


def _ours(tx: Tx, changes: Sequence[Change], node: str | None) -> set[str]:
    """The ids of the runs that are still as they were, and in our hands."""
    expected = {change.before.id: change.before.version for change in changes}
    query = _PRESENT.with_for_update() if tx.is_postgresql else _PRESENT
    rows = fetch(tx, query, {"ids": sorted(expected)})
    return {row.id for row in rows if row.version == expected[row.id] and node in (None, row.leased_by)}


def _after(change: Change) -> Run:
    before, after = change.before, change.decision.run
    return replaced(
        after,
        version=before.version + 1,
        sequence=before.sequence + len(change.decision.events),
        next_poll_at=None if after.settled else after.next_poll_at,
    )


def _update_runs(tx: Tx, made: Sequence[Run], *, keep: bool) -> None:
    for statement, wanted in ((_UPDATE_KEEPING, True), (_UPDATE_LEAVING, False)):
        rows = [_row(run) for run in made if (keep and not run.settled) is wanted]
        if rows:
            execute_many(tx, statement, rows)


def _row(run: Run) -> dict[str, object]:
    return {"b_id": run.id, "v_version": run.version, **dict(zip(_NAMES, values_of(run).values(), strict=True))}


def _transition(tx: Tx, before: Run, after: Run) -> dict[str, object]:
    return {
        "run_id": after.id,
        "at": after.observed_at or tx.now,
        "from_status": before.status.value,
        "to_status": after.status.value,
        "provider_status": after.provider_status,
    }


def _events(tx: Tx, change: Change, after: Run) -> list[Event]:
    before = change.before
    return [
        run_event(
            new_id("evt"),
            event_type,
            after,
            sequence=before.sequence + number,
            previous_status=before.status,
            now=tx.now,
        )
        for number, event_type in enumerate(change.decision.events, start=1)
    ]
