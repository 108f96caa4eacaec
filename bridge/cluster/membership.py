"""Membership: this node's lease and rank among the nodes that share one PostgreSQL.

    joined ──► renewed every quarter of the lease ──────────────────────────────► left (by the daemon)
                 │  not renewed in time: the lease guard closes, POSTs under way are cancelled
                 │        ├── the database is back and no node has evicted us: go on, nothing is lost
                 │        └── evicted (`is_lost`): the daemon drops all work and starts over under a new id
                 └── each time: list the nodes, find our rank, keep the NOTIFY connection open

Never used on SQLite, where there is only one node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog

from bridge.cluster.lease_guard import LeaseGuard
from bridge.cluster.process_identity import is_surely_dead
from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.runtime.loop import Bell
from bridge.store import nodes
from bridge.store.database import Database
from bridge.store.nodes import Node
from bridge.store.transaction import Tx

T = TypeVar("T")
log = structlog.get_logger()
RENEW_SHARE: Final = 0.25  # of the lease, between two renewals; also the longest that one may take
UNNOTICED_REST_S: Final = 0.1
EVICT_AFTER: Final = 2  # renewals without a break: after an outage the other nodes get time to renew first


@dataclass(frozen=True, slots=True)
class NodeRank:
    """The number of this node among `nodes`; 0 is the longest running, which does the chores.

    `is_noticed`: every other node has renewed its lease since we joined, and so counts us.
    """

    number: int = 0
    nodes: int = 1
    is_noticed: bool = True


class Membership:
    """Keeps one node's lease; a `Loop` repeats `run_pass`, and another one `evict_dead`."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        lease_s: float,
        lease_guard: LeaseGuard,
        cancel_posts: Callable[[], None],
    ) -> None:
        """`cancel_posts` is called at the instant at which the lease guard closes."""
        self.bell = Bell()
        self.rank = NodeRank(is_noticed=False)
        self.is_lost = False
        """Other nodes have taken the work; until `joined` is called again this node does nothing."""
        self.lease_guard = lease_guard
        self._lease_s = lease_s
        self._renew_every_s = RENEW_SHARE * lease_s
        self._node = ""
        self._others: list[Node] = []
        self._database = database
        self._clock = clock
        self._cancel_posts = cancel_posts
        self._listener = database.notify_listener()
        self._is_deaf = False
        self._is_fenced = False
        self._unbroken_since: float | None = None
        self._renew_due = 0.0
        self._unnoticed: dict[str, float] | None = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def does_chores(self) -> bool:
        """Whether this node does the work that one node does for all."""
        return self.lease_guard.is_open and self.rank.number == 0

    def joined(self, node: str, began: float) -> None:
        """Begin with the fresh lease that a transaction took which began at `began` (monotonic)."""
        self._node, self.is_lost, self._is_fenced = node, False, False
        self._unbroken_since, self._unnoticed = began, None
        self.rank = replace(self.rank, is_noticed=False)
        self._renew_due = 0.0
        self._extend(began)

    # -- the pass

    async def run_pass(self) -> float:
        """Renew the lease if it is time, find our rank; seconds until the next pass, 0 if the lease is lost."""
        now = self._clock.monotonic()
        if now >= self._renew_due or self._is_fenced:
            await self._renew(now)
            await self._keep_listening()
        else:
            self._take_rank(await self._write_reserved(_list_nodes))
        if self.is_lost:
            return 0.0
        if not self.rank.is_noticed:
            return UNNOTICED_REST_S
        return max(0.0, self._renew_due - self._clock.monotonic())

    async def _renew(self, began: float) -> None:
        def renew(tx: Tx) -> tuple[bool, list[Node]]:
            return nodes.renew(tx, self._node, self._lease_s), _list_nodes(tx)

        try:
            is_held, live = await self._write_reserved(renew)
        except StoreUnavailable:
            self._unbroken_since = None
            raise
        if not is_held:
            self._lose()
            return
        if self._unbroken_since is None:
            self._unbroken_since = began
        self._renew_due = began + self._renew_every_s
        self._extend(began)
        if self._is_fenced and self.lease_guard.is_open:
            self._is_fenced = False
            log.info("node.resumed", node=self._node)
        self._take_rank(live)

    async def _write_reserved(self, work: Callable[[Tx], T]) -> T:
        """Write on a connection of its own, so that no other work delays the renewal."""
        return await self._database.write_reserved(work, self._renew_every_s)

    def expect_change(self) -> None:
        """Renew at once, because a node joined or left; the renewal also shows a new node that we have noticed it."""
        self._renew_due = 0.0
        self.bell.ring()

    def _lose(self) -> None:
        log.warning("node.lost", node=self._node, advice="it was silent for longer than its lease; it starts over")
        self.is_lost = True
        self._stop_timer()
        self.lease_guard.closes_at = 0.0
        self._cancel_posts()

    def _extend(self, began: float) -> None:
        self.lease_guard.extend(began, self._lease_s)
        self._set_timer(self.lease_guard.closes_at)

    def _set_timer(self, at: float) -> None:
        self._stop_timer()
        left_s = max(0.0, at - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(left_s, self._close_if_due)

    def _close_if_due(self) -> None:
        if self.lease_guard.is_open:  # a timer may be a little early
            self._set_timer(self.lease_guard.closes_at + 0.001)
            return
        self._is_fenced = True
        log.error(
            "node.fenced", node=self._node, reason="its lease could not be renewed in time; nothing more is begun"
        )
        self._cancel_posts()
        self.bell.ring()

    def _stop_timer(self) -> None:
        """Stop watching the lease guard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the others

    def _take_rank(self, listed: list[Node]) -> None:
        """Find our rank. A silent node counts until it is evicted, because it may be as alive as we are."""
        ids = [node.id for node in listed]
        self._others = [node for node in listed if node.id != self._node]
        if self._node not in ids:
            return  # we have just been evicted; the next renewal finds out
        alive = {
            node.id: node.lease_expires_at.timestamp() for node in listed if node.is_alive and node.id != self._node
        }
        rank = NodeRank(ids.index(self._node), len(ids), self._is_noticed(alive))
        self._database.has_other_nodes = rank.nodes > 1
        if rank != self.rank:
            log.info("node.placed", node=self._node, place=rank.number, nodes=rank.nodes, is_noticed=rank.is_noticed)
            self.rank = rank

    def _is_noticed(self, leases: Mapping[str, float]) -> bool:
        """Another node counts us, and keeps to a smaller share, from its first renewal after we joined."""
        if self._unnoticed is None:
            self._unnoticed = dict(leases)
        self._unnoticed = {id_: at for id_, at in self._unnoticed.items() if leases.get(id_) == at}
        return not self._unnoticed

    async def evict_dead(self) -> float:
        """Release what nodes hold that have ended or whose lease has run out; seconds until the next pass.

        It may wait for locks that such a node left behind, which is why it does not delay the renewal. It does nothing
        while our own lease is in doubt: after a long sleep we know the other nodes as they were before it.
        """
        if self.lease_guard.is_open:
            await self._evict_dead()
        return self._renew_every_s

    async def _evict_dead(self) -> None:
        if ended := find_surely_dead(self._others):
            await self._database.write(lambda tx: nodes.evict(tx, ended))
            for other in ended:
                log.warning("node.buried", node=other, reason="its process has ended")
        since = self._unbroken_since
        if since is None or self._clock.monotonic() - since < EVICT_AFTER * self._renew_every_s:
            return
        for other in await self._database.write(nodes.evict_dead):
            log.warning("node.buried", node=other, reason="its lease has run out")

    async def _keep_listening(self) -> None:
        """Keep listening for notifications. They are hints: without them changes are found some seconds later."""
        try:
            await self._listener.keep_open(self._renew_every_s)
        except StoreUnavailable as error:
            if not self._is_deaf:
                log.warning("node.deaf", node=self._node, reason=str(error))
            self._is_deaf = True
        else:
            self._is_deaf = False

    def close(self) -> None:
        """Close the NOTIFY connection, and watch the lease guard no longer."""
        self._stop_timer()
        self._listener.close()


def find_surely_dead(listed: Sequence[Node]) -> list[str]:
    """The ids of nodes whose process, on this machine, has ended; their leases need not run out first."""
    return [node.id for node in listed if is_surely_dead(node.process)]


def _list_nodes(tx: Tx) -> list[Node]:
    return nodes.list_nodes(tx, with_counts=False)
