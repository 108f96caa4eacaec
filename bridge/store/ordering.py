"""What an endpoint is owed: made due, held back, kept in order.

A delivery that must wait for something other than time has no `next_attempt_at`: its endpoint is switched off, or
asked for order and an earlier event of the same run is still owed to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from bridge.domain.delivery import DeliveryState
from bridge.store.tables import deliveries, endpoints
from bridge.store.transaction import Tx


def hold_pending(tx: Tx, endpoint_id: str) -> None:
    """Nothing of it is due any longer, but all of it is kept."""
    _lock_owed(tx, endpoint_id)  # in their order: on PostgreSQL whoever records attempts takes the same rows
    tx.connection.execute(_pending(endpoint_id).values(next_attempt_at=None))


def release_pending(tx: Tx, endpoint_id: str) -> None:
    """What was held back is due at once; where order was asked for, the first of each run only."""
    _lock_owed(tx, endpoint_id)
    statement = _pending(endpoint_id).where(deliveries.c.next_attempt_at.is_(None), ~_stands_behind(endpoint_id))
    tx.connection.execute(statement.values(next_attempt_at=tx.now))
    tx.signals.deliveries_due = True


def hold_followers(tx: Tx, endpoint_id: str) -> None:
    """The endpoint asks for order from now on: what stands behind an earlier event of its run waits."""
    _lock_owed(tx, endpoint_id)
    tx.connection.execute(_pending(endpoint_id).where(_stands_behind(endpoint_id), _FREE).values(next_attempt_at=None))


def hold_back(tx: Tx, delivery_ids: Sequence[str]) -> None:
    """Of these deliveries, let those wait that stand behind an earlier event of their run where order was asked for."""
    chosen = sa.update(deliveries).where(deliveries.c.id.in_(delivery_ids), _IS_PENDING, _FREE, _stands_behind())
    tx.connection.execute(chosen.values(next_attempt_at=None))


_KEY = sa.func.unnest(sa.bindparam("keys", type_=sa.ARRAY(sa.Text))).column_valued("key")
_NUMBER = sa.func.hashtextextended(_KEY, 0)
# Not of rows: who waits to change one would wait for ever behind sharers that never cease. These are given in turn.
_LOCK = sa.select(sa.func.pg_advisory_xact_lock(_NUMBER))
_SHARE = sa.select(sa.func.pg_advisory_xact_lock_shared(_NUMBER))


def lock_to_change(tx: Tx, endpoint_id: str) -> None:
    """Until this transaction ends nobody adds to what an endpoint is owed in order, nor changes what it asks for.

    Before all other locks.
    """
    if tx.is_postgresql:
        tx.connection.execute(_LOCK, {"keys": [endpoint_id]})


def lock_orders(tx: Tx, owed: Iterable[tuple[str, str | None]]) -> None:
    """For each (ordered endpoint, run): until this transaction ends, nobody else adds to or takes from what it is owed.

    Else one transaction adds an event behind one that another transaction just settles, and nobody releases it.
    Before endpoints, the feed and deliveries are locked, in this order: else two transactions wait for each other.
    """
    if tx.is_postgresql and (keys := sorted({f"{endpoint_id} {run_id}" for endpoint_id, run_id in owed if run_id})):
        tx.connection.execute(_LOCK, {"keys": keys})


def lock_orders_to_add(tx: Tx, owed: Iterable[tuple[str, str | None]]) -> set[str]:
    """`lock_orders` for whoever adds to what is owed: those of the endpoints that ask for order until it has ended.

    Else somebody ends the order meanwhile, lets go what is held back, and does not see what this transaction holds back.
    """
    pairs = list(owed)
    ids = sorted({endpoint_id for endpoint_id, _ in pairs})
    if not ids or not tx.is_postgresql:
        return set(ids)
    tx.connection.execute(_SHARE, {"keys": ids})
    lock_orders(tx, pairs)
    these = sa.select(endpoints.c.id).where(endpoints.c.id.in_(ids), endpoints.c.ordered)
    return set(tx.connection.execute(these).scalars())


def lock_orders_of(tx: Tx, delivery_ids: Sequence[str]) -> None:
    """`lock_orders_to_add` for all that these deliveries belong to, and then they themselves."""
    if tx.is_postgresql:
        of_ordered = deliveries.join(
            endpoints, sa.and_(endpoints.c.id == deliveries.c.endpoint_id, endpoints.c.ordered)
        )
        query = sa.select(deliveries.c.endpoint_id, deliveries.c.run_id).select_from(of_ordered)
        owed = tx.connection.execute(query.where(deliveries.c.id.in_(delivery_ids))).all()
        lock_orders_to_add(tx, [(row.endpoint_id, row.run_id) for row in owed])
        these = sa.select(deliveries.c.id).where(deliveries.c.id.in_(delivery_ids))
        tx.connection.execute(these.order_by(deliveries.c.id).with_for_update())


def _lock_owed(tx: Tx, endpoint_id: str) -> None:
    """Until this transaction ends nobody records what came of anything that is owed to this endpoint.

    Whoever is about to settle an event is either done by now, or finds the endpoint as this transaction leaves it.
    """
    if tx.is_postgresql:
        owed = sa.select(deliveries.c.id).where(deliveries.c.endpoint_id == endpoint_id, _IS_PENDING)
        tx.connection.execute(owed.order_by(deliveries.c.id).with_for_update())


def release_next(tx: Tx, endpoint_id: str, run_id: str) -> None:
    """In an ordered endpoint: the next event of the run becomes due, its predecessor being settled."""
    first = (
        sa.select(deliveries.c.id)
        .where(deliveries.c.run_id == run_id, deliveries.c.endpoint_id == endpoint_id, _IS_PENDING)
        .order_by(deliveries.c.sequence)
        .limit(1)
    )
    found = tx.connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id.in_(first.scalar_subquery()), deliveries.c.next_attempt_at.is_(None))
        .values(next_attempt_at=tx.now)
    ).rowcount
    tx.signals.deliveries_due |= bool(found)


def discard_pending(tx: Tx, endpoint_id: str) -> None:
    """The endpoint was removed: there is nowhere to send it to."""
    tx.connection.execute(
        _pending(endpoint_id).values(state=DeliveryState.DISCARDED.value, next_attempt_at=None, settled_at=tx.now)
    )


_IS_PENDING = deliveries.c.state == DeliveryState.PENDING.value
_FREE = deliveries.c.leased_by.is_(None)


def _pending(endpoint_id: str) -> sa.Update:
    return sa.update(deliveries).where(deliveries.c.endpoint_id == endpoint_id, _IS_PENDING)


def _stands_behind(endpoint_id: sa.ColumnElement[str] | str = deliveries.c.endpoint_id) -> sa.ColumnElement[bool]:
    """The endpoint asked for order, and an earlier event of the same run is still owed to it."""
    earlier = deliveries.alias("earlier")
    is_owed = sa.exists().where(
        earlier.c.endpoint_id == deliveries.c.endpoint_id,
        earlier.c.run_id == deliveries.c.run_id,
        earlier.c.state == DeliveryState.PENDING.value,
        earlier.c.sequence < deliveries.c.sequence,
    )
    is_ordered = sa.exists().where(endpoints.c.id == endpoint_id, endpoints.c.ordered)
    return sa.and_(is_ordered, is_owed)
