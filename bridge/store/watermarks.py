"""How far discovery has got at each connection, so that a restart goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bridge.store.tables import watermarks
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Watermark:
    """When runs began, by the provider's clock: the newest of the very first list, and the newest seen since.

    None where there was none.
    """

    first_at: datetime | None
    newest_at: datetime | None


def get_watermark(tx: Tx, connection: str) -> Watermark | None:
    """The watermark of a connection; None before its first list."""
    row = tx.connection.execute(sa.select(watermarks).where(watermarks.c.connection == connection)).first()
    return None if row is None else Watermark(row.first_at, row.newest_at)


def save_watermark(tx: Tx, connection: str, mark: Watermark) -> None:
    """Set it, in place of the one before."""
    values = {"first_at": mark.first_at, "newest_at": mark.newest_at, "updated_at": tx.now}
    same = watermarks.c.connection == connection
    if not tx.connection.execute(sa.update(watermarks).where(same).values(values)).rowcount:
        tx.connection.execute(sa.insert(watermarks).values(connection=connection, **values))
