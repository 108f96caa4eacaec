"""The pollers of this node: one for each configured connection, started, exchanged and ended while the daemon runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from bridge.cluster.membership import NodeRank
from bridge.domain.connection import Connection, ConnectionHealth
from bridge.domain.errors import BridgeError
from bridge.domain.limits.fair_limiter import FairRateLimiter
from bridge.domain.timestamps import after
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.duration_learner import LearnedState
from bridge.polling.poller import Poller
from bridge.polling.services import PollingServices
from bridge.providers.http import ProviderSessions
from bridge.runtime.supervisor import Supervisor
from bridge.store import connections, run_leases

LATEST_POLL_S: Final = 3600.0  # the longest pause that a provider may ask for


class Pollers:
    """`by_connection` changes on a reload; `rank` decides which part of the limits is ours."""

    def __init__(self, workers: Supervisor, services: PollingServices) -> None:
        self.by_connection: dict[str, Poller] = {}
        self.rank = NodeRank()
        self._workers = workers
        self._services = services
        self._database = services.database

    async def configure(self, configured: Mapping[str, Connection], sessions: ProviderSessions, node: str) -> None:
        """Have exactly one poller for each connection; those that have not changed go on undisturbed."""
        health = await self._database.read(connections.list_health)
        for name, poller in list(self.by_connection.items()):
            if configured.get(name) != poller.client.connection:
                await self._end(name)
        for name, connection in configured.items():
            if name not in self.by_connection:
                present = health[name].health if name in health else ConnectionHealth.UNKNOWN
                limiter, clock = self._limiter_for(connection), self._services.clock
                client = ConnectionClient(connection, sessions, health=present, limiter=limiter, clock=clock)
                await self._start(client, node)

    async def abandon(self) -> None:
        """Stop polling and write nothing: the leases are lost."""
        for name, poller in self.by_connection.items():
            await self._workers.end(_worker(name))
            await poller.abandon()

    async def start_over(self, node: str) -> None:
        """Poll again, after `abandon`, under the leases of another node id."""
        for poller in list(self.by_connection.values()):
            await self._start(poller.client, node)

    async def drain(self) -> None:
        """Save what was learned and release every lease; the workers have ended."""
        for poller in self.by_connection.values():
            with contextlib.suppress(BridgeError):  # the leases run out by themselves
                await poller.drain()

    def take_rank(self, rank: NodeRank) -> None:
        """Share the limits and the runs with more or fewer nodes."""
        self.rank = rank
        for poller in self.by_connection.values():
            self._divide(poller.client.limiter)
            poller.leases.rebalance()

    def forget(self, run_id: str) -> None:
        """Remove a run from memory: it is not watched any more."""
        for poller in self.by_connection.values():
            poller.leases.forget(run_id)

    def rebase(self, jump_s: float) -> None:
        """Move due times after the wall clock was set forward by `jump_s`."""
        for poller in self.by_connection.values():
            poller.leases.rebase(jump_s)

    async def _start(self, client: ConnectionClient, node: str) -> None:
        name = client.connection.name
        latest_s = max(client.connection.cadence.max_interval_s, LATEST_POLL_S)
        await self._database.write(lambda tx: run_leases.clamp_due(tx, name, after(tx.now, latest_s)))
        limiter = client.limiter
        is_first = all(other.client.limiter is not limiter for other in self.by_connection.values())
        learned = await LearnedState.load(self._database, name, limiter.rate_limit, recalls_rate=is_first)
        self._divide(limiter)
        poller = Poller(client, self._services, learned=learned, node=node)
        self.by_connection[name] = poller
        self._workers.start_loop(_worker(name), poller.run_pass, poller.bell)

    async def _end(self, name: str) -> None:
        poller = self.by_connection.pop(name)
        await self._workers.end(_worker(name))
        await poller.drain()

    def _limiter_for(self, connection: Connection) -> FairRateLimiter:
        """One limiter for each credential, however many connections use it."""
        for poller in self.by_connection.values():
            other = poller.client.connection
            if (other.provider, other.base_url, other.api_key) == (
                connection.provider,
                connection.base_url,
                connection.api_key,
            ):
                return poller.client.limiter
        return FairRateLimiter(connection.requests_per_second, connection.max_in_flight)

    def _divide(self, limiter: FairRateLimiter) -> None:
        """Take our share of a limit; none until every other node has noticed us and keeps to a smaller share."""
        if self.rank.is_noticed:
            limiter.divide(self.rank.number, self.rank.nodes)
        else:
            limiter.shut()


def _worker(connection: str) -> str:
    return f"poller:{connection}"
