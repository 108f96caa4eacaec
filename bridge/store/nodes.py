"""Nodes: running daemons, and the lease under which each holds runs and deliveries.

A leased row names its node, and is leased as long as the node's own lease is good. Only the node's row is renewed, so
holding a million runs costs no more than holding one. A node gets a new id at every start, which serves as its fencing
epoch: a write of a leased row checks that the node still leases it, so a node that slept past its lease writes nothing.

    join ──► renew, renew … ──► leave            its leases are released
                     └──(the lease expires, or its process is seen to have ended)──► evicted by another node

On PostgreSQL leases follow the database's clock, whatever the clocks of the nodes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.errors import StoreUnavailable
from bridge.store.postgres.one_statement import Check
from bridge.store.tables import deliveries, nodes, runs
from bridge.store.transaction import Tx

LEASE_S: Final = 20.0
_JOIN_LOCK: Final = 0x72756E6A  # "runj"; any number, the same in every node
_MICROSECONDS: Final = 1_000_000
_MAY_LEASE: Final = "may lease"
_STILL_JOINED: Final = Check(
    "SELECT count(*) = 1 FROM (SELECT id FROM nodes WHERE id = {node} AND {before} FOR KEY SHARE) AS joined",
    (("node", "text"),),
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node, and how many runs and deliveries it leases; `is_alive` by the clock that its lease follows."""

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


def join(
    tx: Tx,
    *,
    node: str,
    host: str,
    pid: int,
    version: str,
    process: str = "",
    lease_s: float = LEASE_S,
    clock_zero_at: datetime | None = None,
) -> None:
    """Register this node with a fresh lease; `process` identifies its process. On SQLite, any previous node has exited."""
    if not tx.is_postgresql:
        _release(tx, [row.id for row in tx.connection.execute(sa.select(nodes.c.id))])
        # leases of nodes without a row (a restored backup)
        for table in (runs, deliveries):
            tx.connection.execute(sa.update(table).where(table.c.leased_by > "").values(leased_by=None))
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
            clock_zero_at=clock_zero_at,
        )
    )
    tx.signals.nodes_changed = True


def renew(tx: Tx, node: str, lease_s: float = LEASE_S) -> bool:
    """Renew the lease. False if it expired and the node was evicted."""
    mine = sa.update(nodes).where(nodes.c.id == node).values(lease_expires_at=_now(tx, lease_s))
    return bool(tx.connection.execute(mine).rowcount)


def may_lease(tx: Tx, node: str) -> bool:
    """False if this node was evicted. Until the transaction ends it cannot be.

    Otherwise an evicted node that does not know it yet would take leases that nothing ever releases.
    """
    if tx.statement is not None:
        tx.statement.check(_STILL_JOINED, node)
        return True
    if tx.is_postgresql and _MAY_LEASE not in tx.cache:
        mine = sa.select(nodes.c.id).where(nodes.c.id == node).with_for_update(key_share=True, read=True)
        tx.cache[_MAY_LEASE] = tx.connection.execute(mine).first() is not None
    return not tx.is_postgresql or bool(tx.cache[_MAY_LEASE])


def check_may_lease(tx: Tx, node: str) -> None:
    """StoreUnavailable unless `may_lease`."""
    if not may_lease(tx, node):
        raise StoreUnavailable("this node's lease ran out and others do its work; it starts over at once")


def list_nodes(tx: Tx, *, with_counts: bool = True) -> list[Node]:
    """Every node that has not left, the longest running first; those not alive will be evicted."""
    leased = {table.name: _count_leased(tx, table) if with_counts else {} for table in (runs, deliveries)}
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
            runs=leased["runs"].get(row.id, 0),
            deliveries=leased["deliveries"].get(row.id, 0),
        )
        for row in tx.connection.execute(query)
    ]


def list_alive(tx: Tx) -> list[str]:
    """Process and host of each node whose lease is good."""
    return [f"pid {node.pid} on {node.host}" for node in list_nodes(tx, with_counts=False) if node.is_alive]


def save_file_endpoints(tx: Tx, node: str, file_endpoints: Sequence[str]) -> None:
    """Save which endpoints the node's configuration file names."""
    tx.connection.execute(sa.update(nodes).where(nodes.c.id == node).values(file_endpoints=sorted(file_endpoints)))


def file_endpoints_elsewhere(tx: Tx, node: str) -> set[str]:
    """Ids of the endpoints that the configuration files of other live nodes name.

    Until the transaction ends no other node can compare its file with the database.
    """
    if not tx.is_postgresql:
        return set()
    tx.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_JOIN_LOCK})"))
    others = sa.select(nodes.c.file_endpoints).where(nodes.c.id != node, nodes.c.lease_expires_at >= _now(tx))
    return {name for names in tx.connection.execute(others).scalars() for name in names}


def leave(tx: Tx, node: str) -> None:
    """Release every lease of this node and delete its row."""
    _release(tx, [node])


def evict(tx: Tx, node_ids: Sequence[str]) -> None:
    """Evict nodes that are known to be dead, even if their lease is good: release what they lease."""
    _release(tx, list(node_ids))


def evict_dead(tx: Tx) -> list[str]:
    """Evict the nodes whose lease has expired; returns their ids.

    A node that is just renewing or leasing something is skipped until the next call.
    """
    dead = sa.select(nodes.c.id).where(nodes.c.lease_expires_at < _now(tx)).with_for_update(skip_locked=True)
    found = list(tx.connection.execute(dead).scalars())
    _release(tx, found)
    return found


def _now(tx: Tx, later_s: float = 0.0) -> sa.ColumnElement[Any]:
    """Now plus `later_s` as the column holds it, by the clock that leases follow."""
    later = round(later_s * _MICROSECONDS)
    if not tx.is_postgresql:
        return sa.literal(round(tx.now.timestamp() * _MICROSECONDS) + later, sa.BigInteger)
    seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
    return sa.cast(seconds * _MICROSECONDS, sa.BigInteger) + sa.literal(later, sa.BigInteger)


def _count_leased(tx: Tx, table: sa.Table) -> dict[str, int]:
    leased = sa.select(table.c.leased_by, sa.func.count()).where(table.c.leased_by > "").group_by(table.c.leased_by)
    return {row[0]: row[1] for row in tx.connection.execute(leased)}


def _release(tx: Tx, node_ids: list[str]) -> None:
    if not node_ids:
        return
    for table in (runs, deliveries):
        tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids)).values(leased_by=None))
    tx.connection.execute(sa.delete(nodes).where(nodes.c.id.in_(node_ids)))
    tx.signals.deliveries_due = True
    tx.signals.nodes_changed = True
