"""Membership: this node's place among the nodes that share one PostgreSQL.

    joined ──► renewed every quarter of the lease ──────────────────────────────► left (the daemon's business)
                 │  not renewed in time: the fence closes, POSTs under way are broken off
                 │        ├── the database is back and nobody has buried us: go on, nothing is lost
                 │        └── buried: everything in hand is dropped, and we start over under a new id
                 └── each time: who is there? our share of the limits, the dead to bury, the ear for notices

Never used on SQLite, where there is only one node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
SURE_AFTER: Final = (
    2  # times as long without a break: after an outage the others may renew first, before they are buried
)


@dataclass(frozen=True, slots=True)
class NodeRank:
    """Where this node stands among `nodes`: 0 is the longest running, which does the chores.

    `is_noticed`: every other node has been seen to renew its lease, and so to count, since we joined.
    """

    number: int = 0
    nodes: int = 1
    is_noticed: bool = True


class Membership:
    """Keeps one node's lease; `run_pass` is repeated by a loop of its own."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        lease_s: float,
        lease_guard: LeaseGuard,
        break_off: Callable[[], None],
        rank_changed: Callable[[NodeRank], None],
        start_over: Callable[[], Awaitable[None]],
    ) -> None:
        """`break_off`: the fence has closed. `start_over`: drop everything and `join` under a new id."""
        self.bell = Bell()
        self.rank = NodeRank(is_noticed=False)
        self.lease_s = lease_s
        self.renew_every_s = RENEW_SHARE * lease_s
        self.lease_guard = lease_guard
        self._node = ""
        self._others: list[Node] = []
        self._database = database
        self._clock = clock
        self._break_off = break_off
        self._rank_changed = rank_changed
        self._start_over = start_over
        self._ear = database.notify_listener()
        self._is_deaf = False
        self._is_fenced = False
        self._is_lost = False
        self._unbroken_since: float | None = None
        self._renew_due = 0.0
        self._unnoticed: dict[str, float] | None = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def does_chores(self) -> bool:
        """Whether the work that one node does for all falls to this one."""
        return self.lease_guard.is_open and self.rank.number == 0

    def joined(self, node: str, began: float) -> None:
        """The node was registered with a fresh lease by a transaction that began at `began` (monotonic)."""
        self._node, self._is_lost, self._is_fenced = node, False, False
        self._unbroken_since, self._unnoticed = began, None
        self.rank = replace(self.rank, is_noticed=False)
        self._renew_due = 0.0
        self._extend(began)

    # -- the pass

    async def run_pass(self) -> float:
        """Renew if it is time, look who is there, keep the ear open; seconds until the next time."""
        if self._is_lost:
            await self._start_over()
        now = self._clock.monotonic()
        if now >= self._renew_due or self._is_fenced:
            await self._renew(now)
            await self._keep_listening()
        else:
            self._take_rank(await self._apart(_list_nodes))
        if self._is_lost:
            return 0.0
        if not self.rank.is_noticed:
            return UNNOTICED_REST_S
        return max(0.0, self._renew_due - self._clock.monotonic())

    async def _renew(self, began: float) -> None:
        def renew(tx: Tx) -> tuple[bool, list[Node]]:
            return nodes.renew(tx, self._node, self.lease_s), _list_nodes(tx)

        try:
            is_held, live = await self._apart(renew)
        except StoreUnavailable:
            self._unbroken_since = None
            raise
        if not is_held:
            self._lose()
            return
        if self._unbroken_since is None:
            self._unbroken_since = began
        self._renew_due = began + self.renew_every_s
        self._extend(began)
        if self._is_fenced and self.lease_guard.is_open:
            self._is_fenced = False
            log.info("node.resumed", node=self._node)
        self._take_rank(live)

    async def _apart(self, work: Callable[[Tx], T]) -> T:
        """On a connection of its own, so that no other work can keep the lease waiting."""
        return await self._database.write_reserved(work, self.renew_every_s)

    def expect_change(self) -> None:
        """A node came or went: renew at once, which also shows a newcomer that it is counted."""
        self._renew_due = 0.0
        self.bell.ring()

    def _lose(self) -> None:
        log.warning("node.lost", node=self._node, advice="it was silent for longer than its lease; it starts over")
        self._is_lost = True
        self.stop_timer()
        self.lease_guard.closes_at = 0.0
        self._break_off()

    def _extend(self, began: float) -> None:
        self.lease_guard.extend(began, self.lease_s)
        self._set_timer(self.lease_guard.closes_at)

    def _set_timer(self, at: float) -> None:
        self.stop_timer()
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
        self._break_off()
        self.bell.ring()

    def stop_timer(self) -> None:
        """The daemon ends, or the timer is set anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the others

    def _take_rank(self, listed: list[Node]) -> None:
        """One that is not heard of counts until it is buried, because it may be as alive as we are."""
        ids = [node.id for node in listed]
        self._others = [node for node in listed if node.id != self._node]
        if self._node not in ids:
            return  # we were buried just now, as the next renewal will tell
        alive = {
            node.id: node.lease_expires_at.timestamp() for node in listed if node.is_alive and node.id != self._node
        }
        rank = NodeRank(ids.index(self._node), len(ids), self._is_noticed(alive))
        self._database.has_other_nodes = rank.nodes > 1
        if rank != self.rank:
            log.info("node.placed", node=self._node, place=rank.number, nodes=rank.nodes, is_noticed=rank.is_noticed)
            self.rank = rank
            self._rank_changed(rank)

    def _is_noticed(self, leases: Mapping[str, float]) -> bool:
        """Others count us, and so keep to a smaller share, from their first renewal on that began after our joining."""
        if self._unnoticed is None:
            self._unnoticed = dict(leases)
        self._unnoticed = {id_: at for id_, at in self._unnoticed.items() if leases.get(id_) == at}
        return not self._unnoticed

    async def evict_dead(self) -> None:
        """A chore: free what nodes hold that have ended or whose lease has run out.

        It may have to wait for locks that one left behind. Not while our own lease is in doubt: who wakes from a long
        sleep sees the others as they were.
        """
        if not self.lease_guard.is_open:
            return
        if ended := find_surely_dead(self._others):
            await self._database.write(lambda tx: nodes.evict(tx, ended))
            for other in ended:
                log.warning("node.buried", node=other, reason="its process has ended")
        since = self._unbroken_since
        if since is None or self._clock.monotonic() - since < SURE_AFTER * self.renew_every_s:
            return
        for other in await self._database.write(nodes.evict_dead):
            log.warning("node.buried", node=other, reason="its lease has run out")

    async def _keep_listening(self) -> None:
        """Notices are hints: without them everything is found some seconds later."""
        try:
            await self._ear.keep_open(self.renew_every_s)
        except StoreUnavailable as error:
            if not self._is_deaf:
                log.warning("node.deaf", node=self._node, reason=str(error))
            self._is_deaf = True
        else:
            self._is_deaf = False

    def close(self) -> None:
        """Hang up and let the fence be."""
        self.stop_timer()
        self._ear.close()


def find_surely_dead(listed: Sequence[Node]) -> list[str]:
    """The ids of those whose process, on this machine, has ended: nobody need wait for their leases."""
    return [node.id for node in listed if is_surely_dead(node.process)]


def _list_nodes(tx: Tx) -> list[Node]:
    return nodes.list_nodes(tx, with_holdings=False)
