"""How large the database is, how much of that is in use, and giving back what is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bridge.store.tables import metadata
from bridge.store.transaction import Tx

_INCREMENTAL: Final = 2
_SAMPLED_PAGES: Final = 1000  # of each table; enough for an estimate within some percent
_PAGE_BYTES: Final = 8192
_OVERHEAD: Final = 1.5  # of a row's bytes: its header, its share of indexes and of pages that are not quite full


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes. `free`: within `total`, but holding nothing (SQLite only)."""

    total: int
    free: int = 0
    wal: int = 0

    @property
    def used(self) -> int:
        """What the rows take."""
        return self.total - self.free


def measure(tx: Tx) -> Size:
    """The size at this moment; cheap enough for every scrape."""
    if tx.is_postgresql:
        return Size(tx.connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
    page_bytes = _pragma(tx, "page_size")
    file = Path(tx.connection.exec_driver_sql("PRAGMA database_list").one()[2])
    wal = file.with_name(file.name + "-wal")
    wal_bytes = wal.stat().st_size if wal.exists() else 0
    return Size(_pragma(tx, "page_count") * page_bytes, _pragma(tx, "freelist_count") * page_bytes, wal_bytes)


def measure_used(tx: Tx, limit: int) -> int:
    """Bytes in use, exact on SQLite; on PostgreSQL an estimate where the database is larger than `limit`.

    PostgreSQL keeps the space of deleted rows for new ones, so that its size tells nothing once it was reached.
    """
    size = measure(tx)
    if not tx.is_postgresql or size.total <= limit:
        return size.used
    return min(size.total, sum(_estimate(tx, table) for table in metadata.tables.values()))


def _estimate(tx: Tx, table: sa.Table) -> int:
    """What the rows in some of a table's pages take, times how many there are of such."""
    name = table.name
    heap = tx.connection.scalar(sa.text(f"SELECT pg_relation_size('{name}')")) or 0
    percent = min(100.0, 100.0 * _SAMPLED_PAGES / max(1, heap // _PAGE_BYTES))
    sampled = f"SELECT sum(pg_column_size({name}.*)) FROM {name} TABLESAMPLE SYSTEM ({percent:.4f})"  # noqa: S608 - our names
    return int((tx.connection.scalar(sa.text(sampled)) or 0) * 100 / percent * _OVERHEAD)


def release_pages(tx: Tx, pages: int) -> int:
    """Give up to `pages` free pages of a SQLite file back to the disk; answers how many."""
    if tx.is_postgresql or _pragma(tx, "auto_vacuum") != _INCREMENTAL:
        return 0
    before = _pragma(tx, "freelist_count")
    for _ in range(min(pages, before)):  # given a number, the statement frees one page a step, and the driver makes one
        tx.connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return before - _pragma(tx, "freelist_count")


def _pragma(tx: Tx, name: str) -> int:
    return int(tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
