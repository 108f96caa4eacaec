"""Lists of runs, newest first, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.run import Run
from bridge.store.postgres import dialect as postgresql
from bridge.store.runs import run_of
from bridge.store.tables import run_tags, runs
from bridge.store.transaction import Tx

_SUCCEEDED: Final[sa.ColumnElement[str]] = sa.literal_column("'succeeded'")  # as the partial index spells it
_PROVIDERS_ID: Final = sa.func.coalesce(runs.c.former_provider_run_id, runs.c.provider_run_id)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """The runs that a list holds; None or empty means any.

    `id_prefix` is the beginning of our id or the provider's; `since` and `until` bound the registration; `metadata`
    holds keys and the text of their values.
    """

    connection: str | None = None
    statuses: Sequence[str] = ()
    tag: str | None = None
    workflow_id: str | None = None
    provider_run_id: str | None = None
    id_prefix: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    ids: Sequence[str] | None = None


def list_runs(tx: Tx, wanted: RunFilter, *, limit: int, before: str | None) -> list[Run]:
    """Newest first, older than the run `before`."""
    key = runs.c.id if wanted.tag is None else run_tags.c.run_id  # in the order of the index that is walked
    query = _selected(tx, wanted, runs).order_by(key.desc()).limit(limit)
    if before is not None:
        query = query.where(key < before)
    found = [row for condition in _status_is(wanted) for row in tx.connection.execute(query.where(condition))]
    return [run_of(row) for row in sorted(found, key=lambda row: str(row.id), reverse=True)[:limit]]


def count_runs(tx: Tx, wanted: RunFilter, *, most: int) -> int:
    """How many a list holds, counted up to `most`."""
    total = 0
    for condition in _status_is(wanted):
        found = _selected(tx, wanted, runs.c.id).where(condition).limit(most - total)
        total += tx.connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()
    return total


def _selected(tx: Tx, wanted: RunFilter, columns: Any) -> sa.Select[Any]:
    query = sa.select(columns)
    if wanted.tag is not None:
        query = query.join(run_tags, run_tags.c.run_id == runs.c.id).where(run_tags.c.tag == wanted.tag)
    for column, value in (
        (runs.c.connection, wanted.connection),
        (runs.c.workflow_id, wanted.workflow_id),
        (_PROVIDERS_ID, wanted.provider_run_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.id_prefix is not None:
        query = query.where(sa.or_(_begins(runs.c.id, wanted.id_prefix), _begins(_PROVIDERS_ID, wanted.id_prefix)))
    if wanted.since is not None:
        query = query.where(runs.c.registered_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(runs.c.registered_at < wanted.until)
    for name, text in wanted.metadata.items():
        query = query.where(_metadata_is(tx, name, text))
    if wanted.ids is not None:
        query = query.where(runs.c.id.in_(wanted.ids))
    return query


def _status_is(wanted: RunFilter) -> list[sa.ColumnElement[bool]]:
    """Conditions that exclude each other, with one way to read newest first for each."""
    if not wanted.statuses:
        return [sa.true()]
    if wanted.tag is not None or wanted.connection is not None or wanted.workflow_id is not None:
        return [runs.c.status.in_(wanted.statuses)]  # their indexes are walked
    is_indexed = sa.and_(runs.c.leased_by.is_(None), runs.c.status != _SUCCEEDED)
    free = [sa.and_(runs.c.status == status, is_indexed) for status in wanted.statuses if status != "succeeded"]
    leased = sa.and_(runs.c.status.in_(wanted.statuses), runs.c.leased_by.is_not(None))
    return [*free, leased, *([runs.c.status == "succeeded"] if "succeeded" in wanted.statuses else [])]


def _begins(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """True if the text begins so, by code points: LIKE ignores case on SQLite."""
    return sa.func.substr(column, 1, len(prefix)) == prefix


def _metadata_is(tx: Tx, name: str, text: str) -> sa.ColumnElement[bool]:
    """True if the value at this key is the text, or if its JSON is (`5`, `true`)."""
    document = sa.type_coerce(runs.c.metadata, sa.Text)
    if tx.is_postgresql:
        return sa.cast(document, postgresql.JSONB).op("->>")(name) == text
    path = f'$."{name}"'
    return sa.or_(
        sa.and_(sa.func.json_type(document, path) == "text", sa.func.json_extract(document, path) == text),
        sa.and_(sa.func.json_type(document, path) != "text", document.op("->")(path) == text),
    )
