"""Lists of runs, newest first, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.run import Run
from bridge.store.clock_shift import id_lead_s
from bridge.store.column_types import recorded_between
from bridge.store.metadata_entries import entry_of
from bridge.store.run_rows import run_of
from bridge.store.tables import run_metadata, run_tags, runs
from bridge.store.transaction import Tx

OWN_PREFIX: Final = "run_"
LAST_ID: Final = "z" * 26  # after whatever follows in one of our ids, also where a language orders them
LAST_TEXT: Final = "\U0010ffff" * 4
FOUND_MAX: Final = 2_000
SELDOM_MAX: Final = 50_000  # lookups that a list may need: a twentieth of a second
SAME_MAX: Final = 10_000  # runs of one provider's id: registered again and again
_SUCCEEDED: Final[sa.ColumnElement[str]] = sa.literal_column("'succeeded'")  # as the partial index spells it
_IS_INDEXED: Final = sa.and_(runs.c.leased_by.is_(None), runs.c.status != _SUCCEEDED)  # by ix_runs_status
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


def list_failing(tx: Tx, connection: str, *, limit: int) -> list[Run]:
    """The watched runs of a connection whose last poll failed, newest first."""
    query = sa.select(runs).where(
        runs.c.connection == connection, runs.c.next_poll_at.is_not(None), runs.c.last_error.is_not(None)
    )
    return [run_of(row) for row in tx.connection.execute(query.order_by(runs.c.id.desc()).limit(limit))]


def list_runs(tx: Tx, wanted: RunFilter, *, limit: int, before: str | None) -> list[Run]:
    """Newest first, older than the run `before`."""
    is_seldom = _is_seldom(tx, wanted)
    query, key = _selected(tx, wanted, runs, is_seldom=is_seldom)
    if before is not None:
        query = query.where(key < before)
    found: list[Any] = []
    for condition, is_few in _conditions(tx, wanted, is_seldom=is_seldom):
        order = key + "" if is_few else key  # an expression: the few are sorted, no index is walked for their order
        found += tx.connection.execute(query.where(condition).order_by(order.desc()).limit(limit))
    return [run_of(row) for row in sorted(found, key=lambda row: str(row.id), reverse=True)[:limit]]


def count_runs(tx: Tx, wanted: RunFilter, *, most: int) -> int:
    """How many a list holds, counted up to `most`."""
    total, is_seldom = 0, _is_seldom(tx, wanted)
    query, _ = _selected(tx, wanted, runs.c.id, is_seldom=is_seldom)
    for condition, _ in _conditions(tx, wanted, is_seldom=is_seldom):
        found = query.where(condition).limit(most - total)
        total += tx.connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()
    return total


def _is_seldom(tx: Tx, wanted: RunFilter) -> bool:
    """True if so few runs have one of the wanted statuses that all of them may be read."""
    if not wanted.statuses or "succeeded" in wanted.statuses:
        return False
    found = sa.select(runs.c.id).where(runs.c.status.in_(wanted.statuses), _IS_INDEXED).limit(SELDOM_MAX + 1)
    return tx.connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one() <= SELDOM_MAX


def _selected(
    tx: Tx, wanted: RunFilter, columns: Any, *, is_seldom: bool
) -> tuple[sa.Select[Any], sa.ColumnElement[str]]:
    """The columns of the runs that are wanted, but for `_conditions`; and the id by whose order an index is walked.

    With `is_seldom` that is the index of statuses, and the others are kept from being walked.
    """
    query, key = sa.select(columns), runs.c.id
    listed: list[tuple[Any, sa.ColumnElement[bool]]] = []
    if wanted.tag is not None:
        listed.append((run_tags, run_tags.c.tag == wanted.tag))
    for number, (name, text) in enumerate(wanted.metadata.items()):
        entries = run_metadata.alias(f"entry_{number}")
        listed.append((entries, entries.c.entry == entry_of(name, text)))
    for table, is_wanted in listed:
        if is_seldom:
            query = query.where(sa.exists().where(is_wanted, table.c.run_id == runs.c.id))
        else:
            key = table.c.run_id
            query = query.join(table, table.c.run_id == runs.c.id).where(is_wanted)
    for column, value in ((runs.c.connection, wanted.connection), (runs.c.workflow_id, wanted.workflow_id)):
        if value is not None:
            query = query.where((column + "" if is_seldom else column) == value)
    lead_s = 0.0 if wanted.until is None else id_lead_s(tx)
    query = query.where(*recorded_between(runs.c.registered_at, key, "run", wanted.since, wanted.until, lead_s))
    if wanted.ids is not None:
        query = query.where(runs.c.id.in_(wanted.ids))
    if wanted.provider_run_id is not None:
        query = query.where(runs.c.id.in_(_find_by_provider_id(tx, wanted, wanted.provider_run_id, limit=SAME_MAX)))
    return query, key


def _conditions(tx: Tx, wanted: RunFilter, *, is_seldom: bool) -> list[tuple[sa.ColumnElement[bool], bool]]:
    """Conditions that exclude each other, each with a way to read newest first; True with those of few runs."""
    return [
        (sa.and_(status, run_id), is_few)
        for status, is_few in _status_is(wanted, is_seldom=is_seldom)
        for run_id in _id_is(tx, wanted)
    ]


def _status_is(wanted: RunFilter, *, is_seldom: bool) -> list[tuple[sa.ColumnElement[bool], bool]]:
    """Conditions that exclude each other, with one way to read newest first for each."""
    if not wanted.statuses:
        return [(sa.true(), False)]
    if not is_seldom and any((wanted.tag, wanted.connection, wanted.workflow_id, wanted.metadata)):
        return [(runs.c.status.in_(wanted.statuses), False)]  # their indexes are walked
    rare = [status for status in wanted.statuses if status != "succeeded"]
    found = [(sa.and_(runs.c.status == status, _IS_INDEXED), False) for status in rare]
    if len(rare) < len(wanted.statuses):
        found.append((sa.and_(runs.c.status == "succeeded", runs.c.leased_by.is_(None)), False))
    return [*found, (sa.and_(runs.c.status.in_(wanted.statuses), runs.c.leased_by > ""), True)]


def _id_is(tx: Tx, wanted: RunFilter) -> list[sa.ColumnElement[bool]]:
    """Conditions for `id_prefix` that exclude each other, each read by an index."""
    prefix = wanted.id_prefix
    if prefix is None or OWN_PREFIX.startswith(prefix):
        return [sa.true()]
    theirs = _find_by_provider_id(tx, wanted, prefix, limit=FOUND_MAX + 1, is_prefix=True)
    conditions: list[sa.ColumnElement[bool]] = []
    if prefix.startswith(OWN_PREFIX):
        conditions.append(sa.and_(runs.c.id >= prefix, runs.c.id <= prefix + LAST_ID))
    if len(theirs) > FOUND_MAX:  # so many begin so that walking back from the newest run soon finds enough
        return [sa.or_(*conditions, sa.func.substr(_PROVIDERS_ID, 1, len(prefix)) == prefix)]
    if others := [run_id for run_id in theirs if not run_id.startswith(prefix)]:
        conditions.append(runs.c.id.in_(others))
    return conditions or [sa.false()]


def _find_by_provider_id(tx: Tx, wanted: RunFilter, text: str, *, limit: int, is_prefix: bool = False) -> list[str]:
    """Our ids of up to `limit` runs with this id at the provider, or with one that begins so."""
    found: list[str] = []
    for column, is_former in ((runs.c.provider_run_id, False), (runs.c.former_provider_run_id, True)):
        query = sa.select(runs.c.id).where(*_between(tx, column, text) if is_prefix else (column == text,))
        names = None if wanted.connection is None else [wanted.connection]
        if not is_former:
            query = query.where(runs.c.former_provider_run_id.is_(None))
            if names is None and not tx.is_postgresql:
                names = _connection_names(tx)  # its index begins with the connection
        if names is not None:
            query = query.where(runs.c.connection.in_(names))
        found += tx.connection.execute(query.limit(limit)).scalars()
    return found[:limit]


def _between(tx: Tx, column: sa.ColumnElement[str], prefix: str) -> tuple[sa.ColumnElement[bool], ...]:
    """True if the text begins so, by code points, as a range of an index."""
    if tx.is_postgresql:
        return column.op("~>=~", is_comparison=True)(prefix), column.op("~<=~", is_comparison=True)(prefix + LAST_TEXT)
    return column >= prefix, column <= prefix + LAST_TEXT


def _connection_names(tx: Tx) -> list[str]:
    """The connections that have runs, each found in one step."""
    names: list[str] = []
    query = sa.select(sa.func.min(runs.c.connection)).where(runs.c.connection > sa.bindparam("last"))
    while (name := tx.connection.execute(query, {"last": names[-1] if names else ""}).scalar_one()) is not None:
        names.append(name)
    return names
