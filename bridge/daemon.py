"""The composition root: build, supervise, drain, close.

The way of the data: register → next_poll_at → lease (`polling.poller`) → fetch and normalise (`providers`)
→ detect (`domain.transition`) → record run, event and deliveries in one transaction (`store.runs`)
→ sign and post (`delivery.deliverer`, `delivery.sender`) → judge (`domain.delivery`) → record → retry or replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import structlog

from bridge import __version__, wiring
from bridge.api.authentication import DashboardRules
from bridge.api.server import RULES, build_app, main_token, start_server
from bridge.cluster.lease_guard import LeaseGuard
from bridge.cluster.membership import Membership, find_surely_dead
from bridge.cluster.process_identity import own_identity
from bridge.config.load import Config, ConfigInvalid, changes_that_need_restart
from bridge.config.show import show_config
from bridge.daemon_control import DaemonControl
from bridge.delivery.deliverer import PASS_GAP_S, Deliverer
from bridge.delivery.replayer import Replayer
from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.clock import SteadyClock
from bridge.domain.errors import BridgeError, StoreUnavailable
from bridge.domain.ids import new_id
from bridge.maintenance import alerts, deadlines, key_rotation, wall_clock
from bridge.maintenance.alert_channels import ChannelSender
from bridge.maintenance.alerts import Alerter
from bridge.maintenance.backups import Backups
from bridge.maintenance.calendar import EVERY_MINUTE, Calendar
from bridge.maintenance.retention import Housekeeper
from bridge.maintenance.wall_clock import WallClockWatch
from bridge.polling.pollers import Pollers
from bridge.polling.services import PollingServices
from bridge.providers.http import ProviderSessions
from bridge.runtime.descriptors import descriptor_limit
from bridge.runtime.metrics import Metrics
from bridge.runtime.supervisor import Supervisor
from bridge.runtime.systemd import Notifier, Watchdog
from bridge.store import checks, endpoints, nodes, runs, sessions
from bridge.store.database import Database
from bridge.store.sqlite import database_file, key_file
from bridge.store.transaction import Tx

log = structlog.get_logger()
DRAIN_S = 20.0  # for POSTs under way at SIGTERM; the unit allows 40 s for the whole stop
FILE_CHECK_S = 2.0
_UNTIL_DRAINED = frozenset({"watchdog", "membership"})


class Daemon:
    """Everything that runs, in the order in which it is built; `stop` goes the other way.

    Both are called inside `async with daemon.workers`, which raises WorkerDied if a worker ends by itself.
    """

    def __init__(self, config: Config, clock: SteadyClock, *, read_config: Callable[[], Config]) -> None:
        self.config = config
        self._read_config = read_config
        self.node = self.address = ""
        self.clock = clock
        self.metrics = Metrics()
        self.notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
        self.watchdog = Watchdog.from_environ(self.notifier, clock, os.environ)
        self.workers = Supervisor(self.watchdog)
        self.database = Database(config.database.url, clock)
        self.tracing = wiring.open_tracing(config, self.metrics)
        self.lease_guard = LeaseGuard(clock)
        self.membership: Membership | None = None
        services = PollingServices(
            self.database,
            clock,
            self.metrics,
            self.lease_guard,
            offer_of=lambda: self.control.deliverer.offer if self.control.deliverer else None,
            tracing=self.tracing,
        )
        self.pollers = Pollers(self.workers, services)
        self.control = DaemonControl(self.database, clock, self.pollers.by_connection, self.metrics)
        self.calendar = Calendar()
        self.housekeeper = Housekeeper(
            database=self.database, clock=clock, metrics=self.metrics, settings=wiring.retention_of(config)
        )
        self._changing = asyncio.Lock()  # held while workers are exchanged
        self._is_starting_over = False
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Open the database, start the workers, then the API."""
        await self.database.open()
        self._stack.push_async_callback(self.database.close)
        if self.tracing is not None:
            self._stack.push_async_callback(self.tracing.close)
            self.control.tracing = self.tracing
        if self.database.is_sqlite:
            self.workers.start("writer", self.database.wait_writer_ended)
            self.workers.start_loop("database file", self._check_database_file)
            _log_sqlite()
        else:
            self._build_membership()
        await self._use_keys(self.config)
        await wall_clock.resume(self.database, self.clock)
        await self._join()
        self._stack.push_async_callback(self._leave)
        self.sessions = ProviderSessions(requests_max=descriptor_limit() // 4)
        self._stack.push_async_callback(self.sessions.close)
        self.sender = Sender(wiring.policies(self.config, ()), timeout_s=self.config.delivery.timeout_s)
        self._stack.push_async_callback(self.sender.close)
        self.channel_sender = ChannelSender(self.sender, wiring.policies(self.config, ())[Trust.CONFIG])
        self._start_deliverer()
        self._stack.push_async_callback(lambda: self.deliverer.drain(DRAIN_S))  # the one there is then
        if self.membership is not None:
            self.workers.start_loop("membership", self._keep_membership, self.membership.bell)
        self._start_replayer()
        await self.pollers.configure(self.config.connections, self.sessions, self.node)
        self.database.listeners.append(self.control.pass_on)
        self._start_maintenance()
        await self._start_api()
        self._note_config()
        self.workers.start_loop("loop lag", self.metrics.measure_lag)
        if self.watchdog.is_wanted:
            self.workers.start("watchdog", self.watchdog.run)
        self.notifier.ready()
        self.notifier.status(f"watching; API on {self.address}")
        log.info("daemon.started", version=__version__, listen=self.address, node=self.node)

    async def stop(self) -> None:
        """Stop taking work, let POSTs under way end, release the leases, close."""
        self.notifier.stopping()
        if self.address:  # otherwise it never started, and the reason for that is all there is to say
            log.info("daemon.stopping")
        self.control.is_stopping = True
        async with self._changing:
            await self.workers.end_all(but=_UNTIL_DRAINED)
        await self.pollers.drain()
        await self._stack.aclose()
        await self.workers.end_all()
        if self.address:
            log.info("daemon.stopped")

    # -- this node

    def _build_membership(self) -> None:
        self.membership = self.control.membership = Membership(
            database=self.database,
            clock=self.clock,
            lease_s=self.config.database.lease_s,
            lease_guard=self.lease_guard,
            cancel_posts=lambda: self.deliverer.cancel_posts(),  # noqa: PLW0108 - a deliverer is built later, and again
        )

    async def _join(self) -> None:
        """Register this node under a new id and give up the id before, if any."""
        before, self.node, began = self.node, new_id("node"), self.clock.monotonic()
        lease_s = self.config.database.lease_s

        def join(tx: Tx) -> tuple[list[str], dict[str, int]]:
            if before:
                nodes.leave(tx, before)
            dead = find_surely_dead(nodes.list_nodes(tx, with_counts=False))
            nodes.evict(tx, dead)
            nodes.join(
                tx,
                node=self.node,
                host=socket.gethostname(),
                pid=os.getpid(),
                process=own_identity(),
                version=__version__,
                lease_s=lease_s,
                clock_zero_at=self.clock.zero_at if self.database.is_sqlite else None,
            )
            return dead, endpoints.sync_file_endpoints(tx, list(self.config.endpoints.values()), node=self.node)

        dead, removed = await self.database.write(join)
        _log_removed(removed)
        for other in dead:
            log.info("node.buried", node=other, reason="its process has ended")
        if self.membership is not None:
            self.membership.joined(self.node, began)
            self.pollers.take_rank(self.membership.rank)

    async def _keep_membership(self) -> float:
        """Renew the lease, and act on what that brought: another rank, or the loss of everything that was leased."""
        assert self.membership is not None
        if self.membership.is_lost or self._is_starting_over:
            await self._start_over()
        rest_s = await self.membership.run_pass()
        if self.membership.rank != self.pollers.rank:
            self.pollers.take_rank(self.membership.rank)
            self.deliverer.nodes = self.membership.rank.nodes
            self.deliverer.bell.ring()
        return rest_s

    async def _start_over(self) -> None:
        """Drop all work, because other nodes have it, and begin again under a new node id."""
        async with self._changing:
            if self.control.is_stopping:
                raise StoreUnavailable("the daemon is stopping")
            self._is_starting_over = True  # until all of it is done: what the database breaks off is begun again
            await self.pollers.abandon()
            await self.workers.end("deliverer")
            await self.deliverer.abandon()
            await self._join()
            self._start_deliverer()
            await self.pollers.start_over(self.node)
            self._is_starting_over = False
            log.info("node.started_over", node=self.node)

    async def _leave(self) -> None:
        if self.membership is not None:  # renewed up to here, so that no node takes what is being drained
            await self.workers.end("membership")
            self.membership.close()
        with contextlib.suppress(BridgeError):  # the lease runs out by itself
            await self.database.write(lambda tx: nodes.leave(tx, self.node))

    # -- the database

    async def _use_keys(self, config: Config) -> None:
        """Encrypt secrets with the configured key, or the one beside the SQLite file; re-encrypt older ones."""
        keys = config.secrets.vault_keys
        if not keys and self.database.is_sqlite:
            path = key_file.path_beside(database_file.path_of(self.database.url))
            keys = await asyncio.to_thread(key_file.read_or_create, path)
        self.database.keyring.use(keys)
        await key_rotation.rotate(self.database)

    # -- delivery

    def _start_deliverer(self) -> None:
        self.deliverer = Deliverer(
            database=self.database,
            clock=self.clock,
            node=self.node,
            sender=self.sender,
            metrics=self.metrics,
            settings=wiring.delivery_settings(self.config, descriptor_limit()),
            file_secrets={name: endpoint.secret for name, endpoint in self.config.endpoints.items()},
            lease_guard=self.lease_guard,
            tracing=self.tracing,
        )
        self.deliverer.nodes = self.membership.rank.nodes if self.membership else 1
        self.control.deliverer = self.deliverer
        self.workers.start_loop("deliverer", self.deliverer.run_pass, self.deliverer.bell, gap_s=PASS_GAP_S)

    def _start_replayer(self) -> None:
        replayer = self.control.replayer = Replayer(database=self.database, clock=self.clock)
        self.workers.start_loop("replayer", replayer.run_pass, replayer.bell)

    # -- maintenance

    def _start_maintenance(self) -> None:
        """On the monotonic clock what must happen in time, by the calendar what people schedule."""
        alerter = Alerter(self.database, self.clock, self.channel_sender, self.metrics, self._disk_free)
        self.alerter = self.control.alerter = alerter
        self.control.housekeeper = self.housekeeper
        self.alerter.use(self.config.alerts)
        rebase = (self.pollers.rebase, self.housekeeper.rebase, self.alerter.rebase)
        self.wall_clock = WallClockWatch(self.database, self.clock, *rebase)
        self.workers.start_loop("wall clock", self._follow_wall_clock)
        self.workers.start_loop("deadlines", self._expire_overdue)
        if self.membership is not None:
            self.workers.start_loop("evictor", self.membership.evict_dead)
        self.workers.start_loop("alerts", self._send_alerts)
        self.calendar.set("housekeeping", EVERY_MINUTE, self._sweep)
        self.backups = self.control.backups = Backups(self.database, self.clock, self.metrics)
        self._schedule_backup()
        self.calendar.start()
        self._stack.callback(self.calendar.stop)

    async def _check_database_file(self) -> float:
        await self.database.check_file()
        return FILE_CHECK_S

    async def _follow_wall_clock(self) -> float:
        if await self.wall_clock.follow():
            self.calendar.reschedule()
        return wall_clock.EVERY_S

    @property
    def _does_chores(self) -> bool:
        """One node does them for all."""
        return self.membership is None or self.membership.does_chores

    async def _expire_overdue(self) -> float:
        if self._does_chores:
            for run in await deadlines.expire_overdue(self.database):
                self.pollers.forget(run.id)
                if self.tracing is not None:
                    self.tracing.expired(run, self.clock.now())
        return deadlines.EVERY_S

    async def _send_alerts(self) -> float:
        if self._does_chores:
            return await self.alerter.run_pass()
        self.alerter.forget()
        return alerts.EVERY_S

    def _disk_free(self) -> int | None:
        return checks.disk_free(database_file.path_of(self.database.url)) if self.database.is_sqlite else None

    async def _sweep(self) -> None:
        if self._does_chores:
            await self.housekeeper.sweep()

    def _schedule_backup(self) -> None:
        plan = wiring.backup_plan(self.config)
        self.backups.use(plan)
        self.calendar.set("backup", plan.cron, self.backups.make)

    # -- the API, and reloading

    async def _start_api(self) -> None:
        self._show_settings()
        server = self.config.server
        self._app = build_app(
            database=self.database,
            clock=self.clock,
            bridge=self.control,
            api_token=server.api_token,
            tokens=self.config.tokens,
            dashboard=_dashboard_rules(self.config),
            allowed_hosts=wiring.allowed_hosts(self.config),
            body_bytes_max=server.body_bytes_max,
            version=__version__,
            registry=self.metrics.registry,
            connections_max=descriptor_limit() // 2,  # the other half: providers, subscribers, database
        )
        runner, self.address = await start_server(self._app, str(server.listen))
        self._stack.push_async_callback(runner.cleanup)
        self._own_addresses = wiring.own_addresses(runner)
        await self._use_policies()

    def _note_config(self) -> None:
        self.metrics.note_reload(self.clock.now().timestamp(), is_good=True)
        self.metrics.expect_connections(self.config.connections)
        self.metrics.expect_endpoints(self.config.endpoints)

    def _show_settings(self) -> None:
        self.control.settings = show_config(self.config)
        self.control.warnings, self.control.refused = self.config.warnings, ()

    async def _use_policies(self) -> None:
        policies = wiring.policies(self.config, self._own_addresses)
        self.control.policy = policies[Trust.API]
        self.channel_sender.policy = policies[Trust.CONFIG]
        await self.sender.replace_policies(policies, timeout_s=self.config.delivery.timeout_s)

    async def reload(self) -> None:
        """Read the configuration again and put all of it into effect, or keep the old one and log why."""
        try:
            new = await asyncio.to_thread(self._read_config)
        except ConfigInvalid as invalid:
            self._refuse([f"{p.field}: {p.message}" for p in invalid.problems])
            return
        lost = wiring.lost_definitions(self.config, new)
        if lost and (problems := wiring.still_used(lost, await self.database.read(runs.count_active))):
            self._refuse(problems)
            return
        if kept := changes_that_need_restart(self.config, new):
            log.warning("config.needs_restart", keys=kept)
        async with self._changing:
            await self._put_into_effect(new)

    def _refuse(self, problems: Sequence[str]) -> None:
        self.metrics.note_reload(self.clock.now().timestamp(), is_good=False)
        self.control.refused = problems
        log.error("config.refused", problems=problems)

    async def _put_into_effect(self, new: Config) -> None:
        self.notifier.reloading()
        await self._use_keys(new)
        self.config = new
        wanted = list(new.endpoints.values())
        _log_removed(await self.database.write(lambda tx: endpoints.sync_file_endpoints(tx, wanted, node=self.node)))
        self.deliverer.settings = wiring.delivery_settings(new, descriptor_limit())
        self.deliverer.file_secrets = {name: endpoint.secret for name, endpoint in new.endpoints.items()}
        self.housekeeper.settings = wiring.retention_of(new)
        self.alerter.use(new.alerts)
        self._schedule_backup()
        self._show_settings()
        tokens = (main_token(new.server.api_token), *new.tokens)
        rules = self._app[RULES]
        if gone := rules.change(tokens, wiring.allowed_hosts(new), new.server.body_bytes_max, _dashboard_rules(new)):
            await self.database.write(lambda tx: sessions.remove_of(tx, gone))
        await self._use_policies()
        await self.pollers.configure(new.connections, self.sessions, self.node)
        self.notifier.ready()
        self._note_config()
        log.info("config.reloaded", connections=len(new.connections), endpoints=len(new.endpoints))


def _log_removed(removed: Mapping[str, int]) -> None:
    """Log the removal of endpoints that are no longer in the configuration file."""
    for endpoint_id, discarded in removed.items():
        write = log.warning if discarded else log.info
        write(
            "endpoint.removed",
            endpoint=endpoint_id,
            reason="it is no longer in the configuration file",
            discarded_deliveries=discarded,
        )


def _dashboard_rules(config: Config) -> DashboardRules:
    return DashboardRules(config.dashboard.enabled, config.dashboard.read_only)


def _log_sqlite() -> None:
    faulty = database_file.has_wal_reset_fault()
    log.info("sqlite.opened", version=sqlite3.sqlite_version, has_wal_reset_fault=faulty)
    if faulty:
        log.warning(
            "sqlite.affected",
            version=sqlite3.sqlite_version,
            advice="this SQLite can damage a WAL database written by two connections at once; "
            "runbridge writes through one only, so let no other program write to the file",
        )
