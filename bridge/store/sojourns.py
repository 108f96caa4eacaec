"""What was learned of durations, kept over restarts; the state's content is the domain's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from bridge.store.tables import sojourns
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class SojournRow:
    """One learner's state. `kind` is workflow, connection or progress; `workflow` is empty where there is none."""

    kind: str
    workflow: str
    status: str
    state: str


def list_sojourns(tx: Tx, connection: str) -> list[SojournRow]:
    """Everything learned at one connection."""
    rows = tx.connection.execute(sa.select(sojourns).where(sojourns.c.connection == connection))
    return [SojournRow(row.kind, row.workflow, row.status, row.state) for row in rows]


def save_sojourns(tx: Tx, connection: str, learned: Sequence[SojournRow]) -> None:
    """Keep these states in place of the ones before; whoever saves last wins, and little is lost by it."""
    for row in learned:
        key = {"connection": connection, "kind": row.kind, "workflow": row.workflow, "status": row.status}
        same = sa.and_(*(sojourns.c[name] == value for name, value in key.items()))
        values = {"state": row.state, "updated_at": tx.now}
        if not tx.connection.execute(sa.update(sojourns).where(same).values(values)).rowcount:
            tx.connection.execute(sa.insert(sojourns).values(**key, **values))
