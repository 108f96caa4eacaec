"""Recording what happened to a run: run, transition, events and deliveries in one transaction."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from bridge.domain.event import run_event
from bridge.domain.ids import new_id
from bridge.domain.run import Run
from bridge.domain.transition import Decision
from bridge.store.events import record_events
from bridge.store.runs import values_of
from bridge.store.tables import runs, transitions
from bridge.store.transaction import Tx


def record(tx: Tx, before: Run, decision: Decision, *, node: str | None, keep: bool) -> Run | None:
    """Make `decision` about `before` true and tell it.

    1. Compare and set: only the run's present version, and only under our claim when `node` is given.
    2. The transition, if the status changed.
    3. The events with their final bytes, numbered on from the run's last; one delivery per endpoint that wants each.
    `keep`: go on holding the claim. Answers the run as it is now, or None when somebody else was faster
    or the run is no longer watched.
    """
    after = decision.run
    after = replace(
        after,
        version=before.version + 1,
        sequence=before.sequence + len(decision.events),
        next_poll_at=None if after.settled else after.next_poll_at,
    )
    mine = sa.and_(runs.c.id == before.id, runs.c.version == before.version)
    if node is not None:
        mine = sa.and_(mine, runs.c.leased_by == node)
    values = {**values_of(after), "version": after.version}
    if not keep or after.settled:
        values["leased_by"] = None
    if tx.connection.execute(sa.update(runs).where(mine).values(values)).rowcount != 1:
        return None
    if decision.status_changed:
        _insert_transition(tx, before, after)
    told = [
        run_event(
            new_id("evt"),
            event_type,
            after,
            sequence=before.sequence + number,
            previous_status=before.status,
            now=tx.now,
        )
        for number, event_type in enumerate(decision.events, start=1)
    ]
    record_events(tx, told)
    if after.settled:
        tx.announcements.settled_run_ids.add(after.id)
    return after


def _insert_transition(tx: Tx, before: Run, after: Run) -> None:
    tx.connection.execute(
        sa.insert(transitions).values(
            run_id=after.id,
            at=after.observed_at or tx.now,
            from_status=before.status.value,
            to_status=after.status.value,
            provider_status=after.provider_status,
        )
    )
