"""Pending deliveries of an endpoint: held, released, kept in order; and the locks of endpoints and the feed.

A pending delivery without `next_attempt_at` is held: its endpoint is disabled, or ordered and an earlier event of the
same run is still pending. Locks are taken in one order: endpoint and run (`lock_…`), endpoints, the feed, deliveries.
Only a change of an endpoint with many pending deliveries locks these before the feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.domain.delivery import DeliveryState
from bridge.store.postgres.one_statement import Check
from bridge.store.tables import deliveries, endpoint_changes, endpoints, nodes
from bridge.store.transaction import Tx


def hold_pending(tx: Tx, endpoint_id: str) -> None:
    """Hold every pending delivery of an endpoint."""
    _lock_pending(tx, endpoint_id)  # in the order in which recorders of attempts lock the same rows
    due = _pending(endpoint_id).where(deliveries.c.next_attempt_at.is_not(None))
    tx.connection.execute(due.values(next_attempt_at=None))


def release_pending(tx: Tx, endpoint_id: str) -> None:
    """Make held deliveries due at once; of an ordered endpoint only the first of each run."""
    _lock_pending(tx, endpoint_id)
    statement = _pending(endpoint_id).where(deliveries.c.next_attempt_at.is_(None), ~_is_behind(endpoint_id))
    tx.connection.execute(statement.values(next_attempt_at=tx.now))
    tx.signals.deliveries_due = True


def hold_followers(tx: Tx, endpoint_id: str) -> None:
    """Hold the deliveries that follow a pending event of their run, because the endpoint becomes ordered."""
    _lock_pending(tx, endpoint_id)
    tx.connection.execute(_pending(endpoint_id).where(_is_behind(endpoint_id), _FREE).values(next_attempt_at=None))


def hold_back(tx: Tx, delivery_ids: Sequence[str]) -> None:
    """Hold those of these deliveries that follow a pending event of their run at an ordered endpoint."""
    chosen = sa.update(deliveries).where(deliveries.c.id.in_(delivery_ids), _IS_PENDING, _FREE, _is_behind())
    tx.connection.execute(chosen.values(next_attempt_at=None))


_KEY = sa.func.unnest(sa.bindparam("keys", type_=sa.ARRAY(sa.Text))).column_valued("key")
_NUMBER = sa.func.hashtextextended(_KEY, 0)
# Advisory locks are granted in turn; a row lock could wait for ever behind sharers that never cease.
_LOCK = sa.select(sa.func.pg_advisory_xact_lock(_NUMBER))
_SHARE = sa.select(sa.func.pg_advisory_xact_lock_shared(_NUMBER))


def lock_endpoint(tx: Tx, *endpoint_ids: str) -> None:
    """Lock endpoints' settings and their order until this transaction ends. Take it before all other locks."""
    if tx.is_postgresql:
        tx.connection.execute(_LOCK, {"keys": sorted(endpoint_ids)})


def share_endpoint(tx: Tx, *endpoint_ids: str) -> None:
    """Keep others from enabling, disabling, changing or removing these endpoints until the end. Read them afterwards."""
    if tx.is_postgresql:
        tx.connection.execute(_SHARE, {"keys": sorted(endpoint_ids)})


FEED_LOCK: Final = 0x72756E66  # "runf"
_HAS_FEED: Final = Check(f"SELECT pg_advisory_xact_lock({FEED_LOCK})::text IS NOT NULL WHERE {{before}}")
# A row locked FOR SHARE is read as it is now; the snapshot is older, because the statement has waited for the feed.
_ENDPOINTS_UNCHANGED: Final = Check(
    "SELECT count(*) = 1 FROM (SELECT id FROM endpoint_changes WHERE {before} AND changes = {changes} FOR SHARE) AS c",
    (("changes", "bigint"),),
)
_LOCK_FEED: Final = sa.text(f"SELECT pg_advisory_xact_lock({FEED_LOCK})")
_CHANGES: Final = sa.select(endpoint_changes.c.changes)
_CHANGE: Final = sa.update(endpoint_changes).values(changes=endpoint_changes.c.changes + 1)


def lock_feed(tx: Tx, changes: int | None) -> bool:
    """Lock the feed until this transaction ends; False if an endpoint was changed since there were so many `changes`.

    A position is assigned before its commit. With the lock, positions are in commit order, so that a reader of the feed
    never meets a smaller one later, and each change of an endpoint is committed before an event, which sees it, or after
    it. `changes` None: the endpoints do not matter.
    """
    if tx.statement is not None:
        tx.statement.check(_HAS_FEED)
        if changes is not None:
            tx.statement.check(_ENDPOINTS_UNCHANGED, changes)
    elif tx.is_postgresql:
        tx.connection.execute(_LOCK_FEED)
        return changes in (None, tx.connection.execute(_CHANGES).scalar())
    return True


def count_change(tx: Tx) -> None:
    """Count a change of an endpoint. A transaction that records an event from now on waits for this commit and sees it."""
    if tx.is_postgresql:
        tx.connection.execute(_LOCK_FEED)
        tx.connection.execute(_CHANGE)


def lock_runs(tx: Tx, pending: Iterable[tuple[str, str | None]]) -> None:
    """Lock the pending deliveries of each (ordered endpoint, run) until this transaction ends.

    Without it one transaction adds an event behind one that another transaction just settles, and nothing releases it.
    """
    if tx.is_postgresql and (keys := sorted({f"{endpoint_id} {run_id}" for endpoint_id, run_id in pending if run_id})):
        tx.connection.execute(_LOCK, {"keys": keys})


def lock_runs_to_add(tx: Tx, pending: Iterable[tuple[str, str | None]]) -> set[str]:
    """`lock_runs` before deliveries are added; the ids of the endpoints that stay ordered until this transaction ends.

    Otherwise a concurrent PATCH that turns ordering off releases held deliveries before it sees those held here.
    """
    pairs = list(pending)
    ids = sorted({endpoint_id for endpoint_id, _ in pairs})
    if not ids or not tx.is_postgresql:
        return set(ids)
    tx.connection.execute(_SHARE, {"keys": ids})
    lock_runs(tx, pairs)
    these = sa.select(endpoints.c.id).where(endpoints.c.id.in_(ids), endpoints.c.ordered)
    return set(tx.connection.execute(these).scalars())


def lock_deliveries(tx: Tx, delivery_ids: Sequence[str]) -> None:
    """`lock_runs_to_add` for the endpoints and runs of these deliveries, then lock the deliveries."""
    if tx.is_postgresql:
        of_ordered = deliveries.join(
            endpoints, sa.and_(endpoints.c.id == deliveries.c.endpoint_id, endpoints.c.ordered)
        )
        query = sa.select(deliveries.c.endpoint_id, deliveries.c.run_id).select_from(of_ordered)
        pending = tx.connection.execute(query.where(deliveries.c.id.in_(delivery_ids))).all()
        lock_runs_to_add(tx, [(row.endpoint_id, row.run_id) for row in pending])
        these = sa.select(deliveries.c.id).where(deliveries.c.id.in_(delivery_ids))
        tx.connection.execute(these.order_by(deliveries.c.id).with_for_update())


def _lock_pending(tx: Tx, endpoint_id: str) -> None:
    """Lock the pending deliveries of an endpoint until this transaction ends.

    A recorder of attempts has then either committed, or sees the endpoint as this transaction leaves it.
    """
    if tx.is_postgresql:
        pending = sa.select(deliveries.c.id).where(deliveries.c.endpoint_id == endpoint_id, _IS_PENDING)
        locked = pending.order_by(deliveries.c.id).with_for_update().subquery()
        tx.connection.execute(sa.select(sa.func.count()).select_from(locked))


def release_next(tx: Tx, endpoint_id: str, run_id: str) -> None:
    """Make the next event of a run due at an ordered endpoint, because its predecessor is settled."""
    d = deliveries.c
    first = sa.select(d.id).where(d.run_id == run_id, d.endpoint_id == endpoint_id, _IS_PENDING, _FREE)
    found = tx.connection.execute(
        sa.update(deliveries)
        .where(
            d.id.in_(first.order_by(d.leased_by, d.sequence).limit(1).scalar_subquery()), d.next_attempt_at.is_(None)
        )
        .where(~_earlier_is_pending())
        .values(next_attempt_at=tx.now)
    ).rowcount
    tx.signals.deliveries_due |= bool(found)


def discard_pending(tx: Tx, endpoint_id: str) -> int:
    """The endpoint was removed: discard its pending deliveries. Returns how many."""
    values = {"state": DeliveryState.DISCARDED.value, "next_attempt_at": None, "settled_at": tx.now}
    return tx.connection.execute(_pending(endpoint_id).values(values)).rowcount


PENDING: Final[sa.ColumnElement[str]] = sa.literal_column("'pending'")  # as the partial indexes spell it
_IS_PENDING = deliveries.c.state == PENDING
_FREE = deliveries.c.leased_by.is_(None)


def _pending(endpoint_id: str) -> sa.Update:
    return sa.update(deliveries).where(deliveries.c.endpoint_id == endpoint_id, _IS_PENDING)


def _is_behind(endpoint_id: sa.ColumnElement[str] | str = deliveries.c.endpoint_id) -> sa.ColumnElement[bool]:
    """The endpoint is ordered, and an earlier event of the same run is still pending there."""
    is_ordered = sa.exists().where(endpoints.c.id == endpoint_id, endpoints.c.ordered)
    return sa.and_(is_ordered, _earlier_is_pending())


def _earlier_is_pending() -> sa.ColumnElement[bool]:
    return is_pending(
        deliveries.c.run_id,
        lambda earlier: [
            earlier.c.endpoint_id == deliveries.c.endpoint_id,
            earlier.c.sequence < deliveries.c.sequence,
        ],
    )


def is_pending(
    run_id: sa.ColumnElement[str] | str,
    conditions: Callable[[sa.FromClause], Iterable[sa.ColumnElement[bool]]] = lambda _: (),
) -> sa.ColumnElement[bool]:
    """Whether a delivery of a run that meets `conditions` is pending, by the index: free, or leased by a node."""

    def exists(held: Callable[[sa.ColumnElement[str | None]], sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
        earlier = deliveries.alias("earlier")
        found = (earlier.c.run_id == run_id, earlier.c.state == PENDING, *conditions(earlier))
        return sa.exists().where(held(earlier.c.leased_by), *found)

    return sa.or_(exists(lambda node: node.is_(None)), exists(lambda node: node.in_(sa.select(nodes.c.id))))
