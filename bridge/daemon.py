"""The composition root: build, supervise, drain, close. Read it as a list of what there is.

The data's way through: register → next_poll_at → claim (`polling.poller`) → fetch and normalise (`providers`)
→ detect (`domain.transition`) → record run, event and deliveries in one transaction (`store.transitions`)
→ sign and post (`delivery.deliverer`, `delivery.sender`) → judge (`domain.delivery`) → record → retry or replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
from collections.abc import Awaitable, Callable

import structlog

from bridge import __version__, wiring
from bridge.api.server import RULES, build_app, start_server
from bridge.cluster.lease_guard import LeaseGuard
from bridge.cluster.membership import Membership, NodeRank, find_surely_dead
from bridge.cluster.process_identity import own_identity
from bridge.config import Config, ConfigInvalid, changes_that_need_restart
from bridge.daemon_control import DaemonControl
from bridge.delivery.deliverer import PASS_GAP_S, Deliverer
from bridge.delivery.replayer import Replayer
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.clock import Clock
from bridge.domain.connection import Connection, ConnectionHealth
from bridge.domain.errors import BridgeError, StoreUnavailable
from bridge.domain.ids import new_id
from bridge.domain.limits.fair_limiter import FairRateLimiter
from bridge.domain.timestamps import after
from bridge.maintenance import chores, key_rotation, retention
from bridge.maintenance.retention import Housekeeper
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.duration_learner import LearnedState
from bridge.polling.poller import Poller
from bridge.providers.http import new_session
from bridge.runtime.loop import Loop
from bridge.runtime.metrics import Metrics
from bridge.runtime.systemd import Notifier, Watchdog
from bridge.store import connections, endpoints, nodes, run_leases
from bridge.store.database import Database
from bridge.store.sqlite import database_file, key_file
from bridge.store.transaction import Tx

log = structlog.get_logger()
DRAIN_S = 20.0  # for POSTs under way at SIGTERM; the unit allows 40 s for the whole stop
LATEST_POLL_S = 3600.0  # the longest pause that a provider is granted


class Daemon:
    """Everything that runs, in the order in which it is built; `stop` goes the other way."""

    def __init__(self, config: Config, clock: Clock, *, read_config: Callable[[], Config]) -> None:
        self.config = config
        self._read_config = read_config
        self.node = ""
        self.clock = clock
        self.metrics = Metrics()
        self.notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
        self.watchdog = Watchdog.from_environ(self.notifier, clock, os.environ)
        self.database = Database(config.database.url, clock)
        self.control = DaemonControl(self.database, clock)
        self.lease_guard = LeaseGuard(clock)
        self.membership: Membership | None = None
        self._changing = asyncio.Lock()  # workers are being exchanged
        self._stack = contextlib.AsyncExitStack()
        self._loops: dict[str, asyncio.Task[None]] = {}
        self.address = ""

    async def start(self) -> None:
        """Open the database, start the workers, then the door."""
        await self.database.open()
        self._stack.push_async_callback(self.database.close)
        self._log_sqlite()
        await self._take_keys(self.config)
        await self._join()
        self._stack.push_async_callback(self._leave)
        self.session = new_session()
        self._stack.push_async_callback(self.session.close)
        self.sender = Sender(wiring.policies(self.config, ()), timeout_s=self.config.delivery.timeout_s)
        self._stack.push_async_callback(self.sender.close)
        self._start_deliverer()
        self._stack.push_async_callback(self._drain_deliverer)
        self._start_replayer()
        await self._set_connections()
        self.database.listeners.append(self.control.hear)
        self._start_chores()
        await self._open_door()
        self._supervise("watchdog", self.watchdog.run)
        self.notifier.ready()
        self.notifier.status(f"watching; API on {self.address}")
        log.info("daemon.started", version=__version__, listen=self.address, node=self.node)

    async def _join(self) -> None:
        """Sign on under a new id; under the one before, if any, nothing more is done."""
        before, self.node, began = self.node, new_id("node"), self.clock.monotonic()
        lease_s = self.config.database.lease_s

        def join(tx: Tx) -> list[str]:
            if before:
                nodes.leave(tx, before)
            dead = find_surely_dead(nodes.list_nodes(tx, with_holdings=False))
            nodes.evict(tx, dead)
            nodes.join(
                tx,
                node=self.node,
                host=socket.gethostname(),
                pid=os.getpid(),
                process=own_identity(),
                version=__version__,
                lease_s=lease_s,
            )
            endpoints.sync_file_endpoints(tx, list(self.config.endpoints.values()), node=self.node)
            return dead

        for other in await self.database.write(join):
            log.info("node.buried", node=other, reason="its process has ended")
        if self.database.is_sqlite:
            return
        if self.membership is None:
            self.membership = self.control.membership = self._new_membership(lease_s)
            loop = Loop("membership", self.membership.run_pass, self.membership.bell, self.watchdog.beat)
            self._supervise("membership", loop.run)
        self.membership.joined(self.node, began)

    def _new_membership(self, lease_s: float) -> Membership:
        return Membership(
            database=self.database,
            clock=self.clock,
            lease_s=lease_s,
            lease_guard=self.lease_guard,
            break_off=lambda: self.deliverer.cancel_posts(),  # noqa: PLW0108 - it is built after the membership
            rank_changed=self._take_rank,
            start_over=self._start_over,
        )

    async def _leave(self) -> None:
        if self.membership is not None:  # up to here, that nobody takes what is being drained
            await self._end_loop("membership")
            self.membership.close()
        with contextlib.suppress(BridgeError):  # the lease runs out by itself
            await self.database.write(lambda tx: nodes.leave(tx, self.node))

    def _take_rank(self, rank: NodeRank) -> None:
        """The limits are shared by more or fewer nodes: take our part of them, and of the runs."""
        for poller in self.control.pollers.values():
            _rank_limiter(poller.client.limiter, rank)
            poller.rebalance()
        self.deliverer.nodes = rank.nodes
        self.deliverer.bell.ring()

    async def _start_over(self) -> None:
        """The lease was lost and others have the work: drop all of it, sign on anew, and begin like a fresh start."""
        async with self._changing:
            if self.control.is_stopping:
                raise StoreUnavailable("the daemon is stopping")
            for name, poller in self.control.pollers.items():
                await self._end_loop(f"poller:{name}")
                await poller.abandon()
            await self._end_loop("deliverer")
            await self.deliverer.abandon()
            await self._join()
            self._start_deliverer()
            for name, poller in list(self.control.pollers.items()):
                await self._start_poller(name, poller.client)
            log.info("node.started_over", node=self.node)

    def _log_sqlite(self) -> None:
        if self.database.is_sqlite:
            faulty = database_file.has_wal_reset_fault()
            log.info("sqlite.opened", version=sqlite3.sqlite_version, has_wal_reset_fault=faulty)
            if faulty:
                log.warning(
                    "sqlite.affected",
                    version=sqlite3.sqlite_version,
                    advice="this SQLite can damage a WAL database written by two connections at once; "
                    "runbridge writes through one only, so let no other program write to the file",
                )

    async def _take_keys(self, config: Config) -> None:
        """Seal secrets with the configured key or that beside the SQLite file, older ones anew."""
        keys = config.secrets.vault_keys
        if not keys and self.database.is_sqlite:
            path = key_file.path_beside(database_file.path_of(self.database.url))
            keys = await asyncio.to_thread(key_file.read_or_create, path)
        self.database.keyring.use(keys)
        await key_rotation.tell_sealed(self.database)

    def _start_deliverer(self) -> None:
        self.deliverer = Deliverer(
            database=self.database,
            clock=self.clock,
            node=self.node,
            sender=self.sender,
            metrics=self.metrics,
            settings=wiring.delivery_settings(self.config),
            file_secrets={name: endpoint.secret for name, endpoint in self.config.endpoints.items()},
            lease_guard=self.lease_guard,
        )
        self.deliverer.nodes = self.membership.rank.nodes if self.membership else 1
        self.control.deliverer = self.deliverer
        loop = Loop("deliverer", self.deliverer.run_pass, self.deliverer.bell, self.watchdog.beat, gap_s=PASS_GAP_S)
        self._supervise("deliverer", loop.run)

    async def _drain_deliverer(self) -> None:
        await self.deliverer.drain(DRAIN_S)

    def _start_replayer(self) -> None:
        replayer = Replayer(database=self.database, clock=self.clock)
        self.control.replayer = replayer
        loop = Loop("replayer", replayer.run_pass, replayer.bell, self.watchdog.beat)
        self._supervise("replayer", loop.run)

    async def _set_connections(self) -> None:
        """Have exactly one poller for each connection of the configuration, those unchanged left in peace."""
        health = await self.database.read(connections.list_health)
        for name, poller in list(self.control.pollers.items()):
            if self.config.connections.get(name) != poller.client.connection:
                await self._end_poller(name)
        for name, connection in self.config.connections.items():
            if name not in self.control.pollers:
                present = health[name].health if name in health else ConnectionHealth.OK
                client = ConnectionClient(connection, self.session, health=present, limiter=self._limiter(connection))
                await self._start_poller(name, client)

    def _limiter(self, connection: Connection) -> FairRateLimiter:
        """One gate for each credential, however many connections use it."""
        for poller in self.control.pollers.values():
            other = poller.client.connection
            if (other.provider, other.base_url, other.api_key) == (
                connection.provider,
                connection.base_url,
                connection.api_key,
            ):
                return poller.client.limiter
        return FairRateLimiter(connection.requests_per_second, connection.max_in_flight)

    async def _start_poller(self, name: str, client: ConnectionClient) -> None:
        latest_s = max(client.connection.cadence.max_interval_s, LATEST_POLL_S)
        await self.database.write(lambda tx: run_leases.clamp_due(tx, name, after(tx.now, latest_s)))
        is_first = all(other.client.limiter is not client.limiter for other in self.control.pollers.values())
        limit = client.limiter.rate_limit
        poller = Poller(
            client,
            learned=await LearnedState.load(self.database, name, limit, recalls_rate=is_first),
            database=self.database,
            clock=self.clock,
            node=self.node,
            metrics=self.metrics,
            lease_guard=self.lease_guard,
        )
        if self.membership is not None:
            _rank_limiter(client.limiter, self.membership.rank)
        self.control.pollers[name] = poller
        loop = Loop(f"poller:{name}", poller.run_pass, poller.bell, self.watchdog.beat)
        self._supervise(loop.name, loop.run)

    async def _end_poller(self, name: str) -> None:
        poller = self.control.pollers.pop(name)
        await self._end_loop(f"poller:{name}")
        await poller.drain()

    def _start_chores(self) -> None:
        scheduler = chores.schedule()
        clock_watch = chores.ClockWatch(self.clock)
        chores.every(scheduler, 2, lambda: chores.rebase(self.database, clock_watch, self.control.rebase), "clock")
        self.housekeeper = Housekeeper(
            database=self.database, clock=self.clock, metrics=self.metrics, settings=wiring.retention_of(self.config)
        )
        chores.every(scheduler, 5, self._for_all(self._expire_overdue), "deadlines")
        chores.every(scheduler, retention.EVERY_S, self._for_all(self.housekeeper.sweep), "housekeeping")
        if self.membership is not None:
            chores.every(scheduler, self.membership.renew_every_s, self.membership.evict_dead, "burying")
        scheduler.start()
        self._stack.callback(scheduler.shutdown, wait=False)

    async def _expire_overdue(self) -> None:
        await chores.expire_overdue(self.database, self.control.settled_elsewhere)

    def _for_all(self, chore: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        """A chore that one node does for all of them."""

        async def do() -> None:
            if self.membership is None or self.membership.does_chores:
                await chore()

        return do

    async def _open_door(self) -> None:
        server = self.config.server
        self._app = build_app(
            database=self.database,
            clock=self.clock,
            bridge=self.control,
            api_token=server.api_token,
            allowed_hosts=wiring.allowed_hosts(self.config),
            body_bytes_max=server.body_bytes_max,
            version=__version__,
            registry=self.metrics.registry,
        )
        runner, self.address = await start_server(self._app, str(server.listen))
        self._stack.push_async_callback(runner.cleanup)
        self.control.policy = wiring.policies(self.config, wiring.own_addresses(runner))[Trust.API]
        await self.sender.replace_policies(wiring.policies(self.config, wiring.own_addresses(runner)))
        self._runner = runner

    # -- supervision

    def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        async def stand() -> None:
            await run()

        if name != "watchdog":
            self.watchdog.register(name)
        self._loops[name] = asyncio.create_task(stand(), name=name)

    async def _end_loop(self, name: str) -> None:
        task = self._loops.pop(name, None)
        self.watchdog.unregister(name)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def reload(self) -> None:
        """Read the configuration again and swap it whole, or keep the old one and say why."""
        try:
            new = await asyncio.to_thread(self._read_config)
        except ConfigInvalid as invalid:
            log.error("config.refused", problems=[f"{p.field}: {p.message}" for p in invalid.problems])
            return
        if kept := changes_that_need_restart(self.config, new):
            log.warning("config.needs_restart", keys=kept)
        async with self._changing:
            await self._put_into_effect(new)

    async def _put_into_effect(self, new: Config) -> None:
        self.notifier.reloading()
        await self._take_keys(new)
        self.config = new
        wanted = list(new.endpoints.values())
        await self.database.write(lambda tx: endpoints.sync_file_endpoints(tx, wanted, node=self.node))
        self.deliverer.settings = wiring.delivery_settings(new)
        self.housekeeper.settings = wiring.retention_of(new)
        self.deliverer.file_secrets = {name: endpoint.secret for name, endpoint in new.endpoints.items()}
        policies = wiring.policies(new, wiring.own_addresses(self._runner))
        self.control.policy = policies[Trust.API]
        self._app[RULES].change(new.server.api_token, wiring.allowed_hosts(new), new.server.body_bytes_max)
        await self.sender.replace_policies(policies, timeout_s=new.delivery.timeout_s)
        await self._set_connections()
        self.notifier.ready()
        log.info("config.reloaded", connections=len(new.connections), endpoints=len(new.endpoints))

    async def stop(self) -> None:
        """Stop taking work, let POSTs under way end, put claims back, close."""
        self.notifier.stopping()
        if self.address:  # else it never started, and why is all that is to be said
            log.info("daemon.stopping")
        self.control.is_stopping = True
        async with self._changing:
            for name in [name for name in self._loops if name not in {"watchdog", "membership"}]:
                await self._end_loop(name)
        for poller in self.control.pollers.values():
            with contextlib.suppress(BridgeError):
                await poller.drain()
        await self._stack.aclose()
        if "watchdog" in self._loops:
            await self._end_loop("watchdog")
        if self.address:
            log.info("daemon.stopped")


def _rank_limiter(limiter: FairRateLimiter, rank: NodeRank) -> None:
    """A newcomer asks nothing until every other node has seen it and keeps to a smaller share."""
    if rank.is_noticed:
        limiter.divide(rank.number, rank.nodes)
    else:
        limiter.shut()
