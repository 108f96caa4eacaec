"""The learned state of a connection, kept over restarts: durations, and how far discovery has read.

The domain defines the content of `state`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from bridge.store.postgres import dialect as postgresql
from bridge.store.tables import sojourns, watermarks
from bridge.store.transaction import Tx

PAUSE: Final = "pause"  # the kind of row that holds until when the provider asked for no request


@dataclass(frozen=True, slots=True)
class LearnedRow:
    """One learner's state. `kind` is workflow, connection or progress; `workflow` is empty where there is none."""

    kind: str
    workflow: str
    status: str
    state: str


def list_learned(tx: Tx, connection: str) -> list[LearnedRow]:
    """Everything learned at one connection."""
    rows = tx.connection.execute(sa.select(sojourns).where(sojourns.c.connection == connection))
    return [LearnedRow(row.kind, row.workflow, row.status, row.state) for row in rows]


def list_changed(tx: Tx, connection: str, since: datetime) -> list[LearnedRow]:
    """The state that any node saved at one connection since `since`."""
    recent = sa.select(sojourns).where(sojourns.c.connection == connection, sojourns.c.updated_at >= since)
    return [LearnedRow(row.kind, row.workflow, row.status, row.state) for row in tx.connection.execute(recent)]


def save_learned(tx: Tx, connection: str, learned: Sequence[LearnedRow]) -> None:
    """Replace these states. The last writer wins; little is lost by it."""
    if not learned:
        return
    insert = postgresql.insert if tx.is_postgresql else sqlite.insert
    new = insert(sojourns)
    save = new.on_conflict_do_update(
        index_elements=list(sojourns.primary_key.columns),
        set_={"state": new.excluded.state, "updated_at": new.excluded.updated_at},
    )
    rows = [{**asdict(row), "connection": connection, "updated_at": tx.now} for row in learned]
    tx.connection.execute(save, sorted(rows, key=lambda row: (row["kind"], row["workflow"], row["status"])))


@dataclass(frozen=True, slots=True)
class Watermark:
    """Start times of runs by the provider's clock: the newest of the first list, and the newest seen since."""

    first_at: datetime | None
    newest_at: datetime | None


def get_watermark(tx: Tx, connection: str) -> Watermark | None:
    """The watermark of a connection; None before its first list."""
    row = tx.connection.execute(sa.select(watermarks).where(watermarks.c.connection == connection)).first()
    return None if row is None else Watermark(row.first_at, row.newest_at)


def save_watermark(tx: Tx, connection: str, mark: Watermark) -> None:
    """Replace the watermark of a connection."""
    values = {"first_at": mark.first_at, "newest_at": mark.newest_at, "updated_at": tx.now}
    same = watermarks.c.connection == connection
    if not tx.connection.execute(sa.update(watermarks).where(same).values(values)).rowcount:
        tx.connection.execute(sa.insert(watermarks).values(connection=connection, **values))
