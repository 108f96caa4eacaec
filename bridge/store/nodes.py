"""Nodes: running daemons, and the lease under which each holds what it claimed.

A claim names its node; it is good as long as the node's lease. One row a node is renewed, not one per
claim, so holding a million runs costs no more than holding one. Every write of a claimed row checks that
the claim is still there: a node that slept past its lease finds nothing to write to.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from bridge.store.tables import deliveries, nodes, runs
from bridge.store.transaction import Tx

LEASE_S = 20.0


def join(tx: Tx, *, node: str, host: str, pid: int, version: str) -> None:
    """Register this node with a fresh lease. On SQLite it is the only one: whoever was there before is dead."""
    if not tx.is_postgresql:
        _release(tx, [row.id for row in tx.connection.execute(sa.select(nodes.c.id))])
        # claims of nodes that are in no list any more (a restored backup)
        for table in (runs, deliveries):
            tx.connection.execute(sa.update(table).where(table.c.leased_by.is_not(None)).values(leased_by=None))
    tx.connection.execute(
        sa.insert(nodes).values(
            id=node,
            host=host,
            pid=pid,
            version=version,
            started_at=tx.now,
            lease_expires_at=tx.now + timedelta(seconds=LEASE_S),
        )
    )


def renew(tx: Tx, node: str) -> bool:
    """Renew the lease; False when it ran out and others have taken the work."""
    return bool(
        tx.connection.execute(
            sa.update(nodes).where(nodes.c.id == node).values(lease_expires_at=tx.now + timedelta(seconds=LEASE_S))
        ).rowcount
    )


def list_alive(tx: Tx) -> list[str]:
    """Where the nodes run whose lease is good."""
    alive = sa.select(nodes.c.host, nodes.c.pid).where(nodes.c.lease_expires_at >= tx.now)
    return [f"pid {row.pid} on {row.host}" for row in tx.connection.execute(alive)]


def leave(tx: Tx, node: str) -> None:
    """Give back every claim and sign off."""
    _release(tx, [node])


def bury_dead(tx: Tx) -> list[str]:
    """Free the claims of nodes whose lease has run out; answers their ids."""
    dead = list(tx.connection.execute(sa.select(nodes.c.id).where(nodes.c.lease_expires_at < tx.now)).scalars())
    _release(tx, dead)
    return dead


def _release(tx: Tx, node_ids: list[str]) -> None:
    if not node_ids:
        return
    for table in (runs, deliveries):
        tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids)).values(leased_by=None))
    tx.connection.execute(sa.delete(nodes).where(nodes.c.id.in_(node_ids)))
    tx.announcements.deliveries_due = True
