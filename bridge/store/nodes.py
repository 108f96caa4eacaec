"""Nodes: running daemons, and the lease under which each holds what it claimed.

A claim names its node; it is good as long as the node's lease. One row a node is renewed, not one per
claim, so holding a million runs costs no more than holding one. A node's id is fresh with every start and
serves as the fencing epoch: every write of a claimed row checks that the claim is still there, so a node
that slept past its lease finds nothing to write to.

    join ──► renew, renew … ──► leave            every claim is given back
                     └──(the lease runs out, or its process is seen to have ended)──► buried by another node

On PostgreSQL leases are told by the database's clock, whatever the nodes' own clocks say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.errors import StoreUnavailable
from bridge.store.tables import deliveries, nodes, runs
from bridge.store.transaction import Tx

LEASE_S: Final = 20.0
_JOIN_LOCK: Final = 0x72756E6A  # "runj"; any number, the same in every node
_MICROSECONDS: Final = 1_000_000
_MAY_LEASE: Final = "may lease"


@dataclass(frozen=True, slots=True)
class Node:
    """A node and what it holds; `is_alive` by the clock that its lease is told by."""

    id: str
    host: str
    pid: int
    version: str
    process: str
    started_at: datetime
    lease_expires_at: datetime
    is_alive: bool
    runs: int = 0
    deliveries: int = 0


def join(tx: Tx, *, node: str, host: str, pid: int, version: str, process: str = "", lease_s: float = LEASE_S) -> None:
    """Register this node with a fresh lease; `process` is its mark. On SQLite it is the only one: whoever was there before is dead."""
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
            process=process,
            version=version,
            started_at=_now(tx),
            lease_expires_at=_now(tx, lease_s),
            file_endpoints=[],
        )
    )
    tx.signals.nodes_changed = True


def renew(tx: Tx, node: str, lease_s: float = LEASE_S) -> bool:
    """Renew the lease; False when it ran out and others have taken the work."""
    mine = sa.update(nodes).where(nodes.c.id == node).values(lease_expires_at=_now(tx, lease_s))
    return bool(tx.connection.execute(mine).rowcount)


def check_may_lease(tx: Tx, node: str) -> None:
    """StoreUnavailable unless this node is still listed; until the transaction ends nobody can bury it.

    Else a node that does not know yet that it was buried would take claims that nobody ever frees.
    """
    if not tx.is_postgresql or _MAY_LEASE in tx.cache:
        return
    mine = sa.select(nodes.c.id).where(nodes.c.id == node).with_for_update(key_share=True, read=True)
    if tx.connection.execute(mine).first() is None:
        raise StoreUnavailable("this node's lease ran out and others do its work; it starts over at once")
    tx.cache[_MAY_LEASE] = True


def list_nodes(tx: Tx, *, with_holdings: bool = True) -> list[Node]:
    """Every node that has not left, the longest running first; those not alive are about to be buried."""
    held = {table.name: _count_held(tx, table) if with_holdings else {} for table in (runs, deliveries)}
    is_alive = (nodes.c.lease_expires_at >= _now(tx)) if tx.is_postgresql else sa.true()
    query = sa.select(nodes, is_alive.label("is_alive")).order_by(nodes.c.started_at, nodes.c.id)
    return [
        Node(
            id=row.id,
            host=row.host,
            pid=row.pid,
            version=row.version,
            process=row.process,
            started_at=row.started_at,
            lease_expires_at=row.lease_expires_at,
            is_alive=bool(row.is_alive),
            runs=held["runs"].get(row.id, 0),
            deliveries=held["deliveries"].get(row.id, 0),
        )
        for row in tx.connection.execute(query)
    ]


def list_alive(tx: Tx) -> list[str]:
    """Where the nodes run whose lease is good."""
    return [f"pid {node.pid} on {node.host}" for node in list_nodes(tx, with_holdings=False) if node.is_alive]


def note_file_endpoints(tx: Tx, node: str, file_endpoints: Sequence[str]) -> None:
    """The node's configuration file names these endpoints now."""
    tx.connection.execute(sa.update(nodes).where(nodes.c.id == node).values(file_endpoints=sorted(file_endpoints)))


def listed_elsewhere(tx: Tx, node: str) -> set[str]:
    """Ids of the endpoints that the configuration files of other live nodes name.

    Until the transaction ends no other node compares its file with the database.
    """
    if not tx.is_postgresql:
        return set()
    tx.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_JOIN_LOCK})"))
    others = sa.select(nodes.c.file_endpoints).where(nodes.c.id != node, nodes.c.lease_expires_at >= _now(tx))
    return {name for names in tx.connection.execute(others).scalars() for name in names}


def leave(tx: Tx, node: str) -> None:
    """Give back every claim and sign off."""
    _release(tx, [node])


def evict(tx: Tx, node_ids: Sequence[str]) -> None:
    """Free the claims of nodes that are known to be dead, whatever is left of their lease."""
    _release(tx, list(node_ids))


def evict_dead(tx: Tx) -> list[str]:
    """Free the claims of nodes whose lease has run out; answers their ids.

    One that is just being renewed, or just claims something, is passed over: it lives, or comes next time.
    """
    dead = sa.select(nodes.c.id).where(nodes.c.lease_expires_at < _now(tx)).with_for_update(skip_locked=True)
    found = list(tx.connection.execute(dead).scalars())
    _release(tx, found)
    return found


def _now(tx: Tx, later_s: float = 0.0) -> sa.ColumnElement[Any]:
    """The present instant and so many seconds as the column holds it, by the clock that leases are told by."""
    later = round(later_s * _MICROSECONDS)
    if not tx.is_postgresql:
        return sa.literal(round(tx.now.timestamp() * _MICROSECONDS) + later, sa.BigInteger)
    seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
    return sa.cast(seconds * _MICROSECONDS, sa.BigInteger) + sa.literal(later, sa.BigInteger)


def _count_held(tx: Tx, table: sa.Table) -> dict[str, int]:
    held = (
        sa.select(table.c.leased_by, sa.func.count()).where(table.c.leased_by.is_not(None)).group_by(table.c.leased_by)
    )
    return {row[0]: row[1] for row in tx.connection.execute(held)}


def _release(tx: Tx, node_ids: list[str]) -> None:
    if not node_ids:
        return
    for table in (runs, deliveries):
        tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids)).values(leased_by=None))
    tx.connection.execute(sa.delete(nodes).where(nodes.c.id.in_(node_ids)))
    tx.signals.deliveries_due = True
    tx.signals.nodes_changed = True
