"""Reaches the running workers for the API (`api.ports.Bridge`), and what commits announce to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from bridge.api.ports import LimiterReading, LivePoll
from bridge.cluster.membership import Membership
from bridge.delivery.deliverer import Deliverer
from bridge.delivery.replayer import Replayer
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.alert import ChannelTest
from bridge.domain.clock import Clock
from bridge.domain.connection import Connection, KeyCheck
from bridge.domain.endpoint import Endpoint
from bridge.domain.errors import NotFound, Problem, ProviderFailed, StartUnknown
from bridge.domain.failure import LastError
from bridge.domain.finding import EffectiveSetting, Finding
from bridge.domain.run import Json, Run
from bridge.domain.webhook_url import check_target
from bridge.maintenance.alerts import Alerter
from bridge.maintenance.backups import Backups
from bridge.maintenance.retention import Housekeeper
from bridge.polling.poller import Poller
from bridge.polling.schedule import TrackedRun
from bridge.providers.http import ProviderFailure
from bridge.runtime.memory import check_memory
from bridge.runtime.metrics import Metrics
from bridge.store import checks
from bridge.store.database import Database
from bridge.store.runs import LeaseOffer
from bridge.store.sqlite import database_file
from bridge.store.transaction import CommitSignals

if TYPE_CHECKING:
    from bridge.runtime.tracing import Tracing

_SHOWN_MAX_S: Final = 1e8  # a later opening depends on other requests
_START_UNKNOWN: Final = (
    "whether the provider started a run is not known; look there before you try again with a new Idempotency-Key, "
    "and register a run that did start with its provider_run_id"
)


class _Connections(Mapping[str, Connection]):
    """The connections of these pollers; a view, so that a reload shows."""

    def __init__(self, pollers: Mapping[str, Poller]) -> None:
        self._pollers = pollers

    def __getitem__(self, name: str) -> Connection:
        return self._pollers[name].client.connection

    def __iter__(self) -> Iterator[str]:
        return iter(self._pollers)

    def __len__(self) -> int:
        return len(self._pollers)


class DaemonControl:
    """Reaches the workers of one daemon. Its own state is only which requests wait for which run."""

    def __init__(self, database: Database, clock: Clock, pollers: Mapping[str, Poller], metrics: Metrics) -> None:
        self.pollers = pollers
        self.connections: Mapping[str, Connection] = _Connections(pollers)
        """The configured connections by name."""
        self.deliverer: Deliverer | None = None
        self.replayer: Replayer | None = None
        self.membership: Membership | None = None
        """Set where several nodes share a database."""
        self.policy = AddressPolicy(Trust.API)
        self.settings: Sequence[EffectiveSetting] = ()
        self.warnings: Sequence[Problem] = ()
        """Warnings about the configuration in effect."""
        self.refused: Sequence[str] = ()
        """The mistakes of the configuration that the last reload refused."""
        self.housekeeper: Housekeeper | None = None
        self.backups: Backups | None = None
        self.alerter: Alerter | None = None
        self.tracing: Tracing | None = None
        self.is_stopping = False
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._feed = asyncio.Event()
        self._filter_errors: dict[str, tuple[str, int]] = {}

    # -- what commits announce

    def pass_on(self, signals: CommitSignals) -> None:
        """Wake the workers and the waiting requests that a commit concerns."""
        for run in signals.leased_runs:
            if run.connection in self.pollers:  # otherwise a poller of that connection finds the lease when it begins
                self.pollers[run.connection].leases.take(run)
        for name in signals.connections_due:
            if name in self.pollers:
                self.pollers[name].leases.expect()
        for poller in self.pollers.values() if signals.is_in_doubt else ():
            poller.leases.doubt()
            poller.bell.ring()
        if self.deliverer is not None:
            self.deliverer.follow_commit(signals)
        if signals.replays_due and self.replayer is not None:
            self.replayer.bell.ring()
        if signals.events_recorded:
            self._feed.set()
            self._feed = asyncio.Event()
        for run_id in signals.poll_requested_run_ids:
            for poller in self.pollers.values():
                poller.leases.poll_now(run_id)
        for run_id in signals.deleted_run_ids | signals.settled_run_ids:  # by another node, perhaps
            self.forget(run_id)
        if signals.nodes_changed and self.membership is not None:
            self.membership.expect_change()
        for (endpoint_id, expression), count in signals.filter_failures.items():
            known, before = self._filter_errors.get(endpoint_id, (expression, 0))
            self._filter_errors[endpoint_id] = (expression, count + (before if known == expression else 0))
        for run_id in signals.settled_run_ids:
            for future in self._waiting.pop(run_id, ()):
                if not future.done():
                    future.set_result(None)

    # -- what the API asks

    def check_run_id(self, connection: str, provider_run_id: str) -> str | None:
        """A sentence if this can never be a run's id at that provider."""
        return self._poller(connection).client.provider.check_run_id(provider_run_id)

    def check_target(self, url: str) -> str:
        """The URL as it will be dialled; InvalidInput if the address policy refuses it."""
        return check_target(url, self.policy).url

    def live(self, run: Run) -> LivePoll | None:
        """The polls of a run, if this node has its connection."""
        poller = self.pollers.get(run.connection)
        if poller is None:
            return None
        tracked = poller.leases.find(run.id)
        if tracked is None:  # on PostgreSQL another node may have it
            at = self._when_open(poller, run.next_poll_at) if self._database.is_sqlite else (run.next_poll_at, None)
            return LivePoll(run.polls, run.last_polled_at, *at, run.last_error)
        at = self._next_poll(poller, tracked)
        return LivePoll(tracked.polls, tracked.last_polled_at, *at, tracked.last_error)

    def recent_polls(self, run: Run) -> list[datetime]:
        """When a run that this node holds was polled lately."""
        poller = self.pollers.get(run.connection)
        tracked = poller and poller.leases.find(run.id)
        if not tracked:
            return []
        now, wall = self._clock.monotonic(), self._clock.now()
        return [wall - timedelta(seconds=now - sent_at) for sent_at in tracked.recent]

    def _next_poll(self, poller: Poller, tracked: TrackedRun) -> tuple[datetime | None, str | None]:
        """When a run that is held is polled next, as far as is known now, and why then."""
        now, wall, due_at = self._clock.monotonic(), self._clock.now(), tracked.next_poll_at
        if due_at is None:
            return None, tracked.reason
        if tracked.is_in_flight:
            return wall, "it is being polled"
        listed_s = poller.lists.shows_in_s(tracked.run.id, now)
        if listed_s < (due_at - wall).total_seconds():
            return wall + timedelta(seconds=listed_s), "a list is worth a request then, and shows this run too"
        return self._when_open(poller, due_at, tracked.reason)

    def _when_open(
        self, poller: Poller, due_at: datetime | None, reason: str | None = None
    ) -> tuple[datetime | None, str | None]:
        """The due time, or what a run that is due waits for at the connection."""
        wall = self._clock.now()
        if due_at is None or due_at > wall:
            return due_at, reason
        opens_in_s, ready = poller.client.opens_in_s(self._clock.monotonic()), poller.schedule.ready_count
        if poller.client.is_probing:
            reason = "its provider fails, and is asked again then"
        elif opens_in_s > 0 or ready:
            reason = f"it is due, and waits for its turn at the connection's limit ({ready} wait in all)"
        return wall + timedelta(seconds=opens_in_s if opens_in_s < _SHOWN_MAX_S else 0.0), reason

    def lease_offer(self, connection: str) -> LeaseOffer | None:
        """The number of runs that the connection's poller offers to poll at once."""
        return self.pollers[connection].leases.offer() if connection in self.pollers else None

    def has_work_under_way(self) -> bool:
        """Whether a poll or a delivery is under way."""
        is_delivering = self.deliverer is not None and self.deliverer.in_flight > 0
        return is_delivering or any(poller.client.limiter.in_flight for poller in self.pollers.values())

    async def poll_now(self, run_id: str) -> None:
        """Poll a run at once, if it is held in memory."""
        for poller in self.pollers.values():
            poller.leases.poll_now(run_id)

    def forget(self, run_id: str) -> None:
        """Remove a run from memory: it is not watched any more."""
        for poller in self.pollers.values():
            poller.leases.forget(run_id)

    async def trigger(
        self, connection: str, workflow_id: str, inputs: Json, extra: dict[str, Json]
    ) -> tuple[str, str | None]:
        """Start a run at the provider."""
        try:
            started = await self._poller(connection).client.trigger(workflow_id, inputs, extra)
        except ProviderFailure as failure:
            if failure.is_ambiguous:
                raise StartUnknown(f"{failure}; {_START_UNKNOWN}") from failure
            raise ProviderFailed(str(failure)) from failure
        return started.provider_run_id, started.provider_ref

    async def cancel(self, run: Run) -> None:
        """Ask the provider to cancel."""
        try:
            await self._poller(run.connection).client.cancel(run)
        except ProviderFailure as failure:
            raise ProviderFailed(str(failure)) from failure

    async def check_connection(self, name: str) -> KeyCheck:
        """One real authenticated call, and one with a wrong key."""
        return await self._poller(name).client.check()

    def last_check(self, name: str) -> KeyCheck | None:
        """The outcome of the last check since the start."""
        return self._poller(name).client.last_check

    def last_list_at(self, name: str) -> datetime | None:
        """When the list of a connection's runs was last read here; None if it was not since the start."""
        return self._poller(name).client.last_list_at

    def last_error(self, name: str) -> LastError | None:
        """The failed polls of a connection since the last one that could be read."""
        return self._poller(name).client.last_error

    def remarks(self, name: str) -> list[dict[str, object]]:
        """The remarks about answers that a connection's definition could not read, the newest first."""
        found = sorted(self._poller(name).client.remarks.items(), key=lambda one: one[1].at, reverse=True)
        return [{"message": said, "at": remark.at, "count": remark.count} for said, remark in found]

    def connection_state(self, name: str) -> dict[str, Json]:
        """Limits in force and what is going on at this moment."""
        poller = self._poller(name)
        limiter, now = poller.client.limiter, self._clock.monotonic()
        opens_in_s = limiter.rate_limit.opens_at - now
        shadow_price_s, over_capacity = limiter.pressure(now)
        return {
            "requests_per_second": round(limiter.rate_limit.rate, 3),
            "limit_is_learned": not limiter.rate_limit.is_known,
            "limit_reason": limiter.rate_limit.explain(now),
            "max_in_flight": limiter.in_flight_limit.limit(limiter.rate_limit.rate),
            "in_flight": limiter.in_flight,
            "runs_in_hand": len(poller.schedule),
            "limits_shared_by_nodes": limiter.sharers,
            "paused_for_s": round(max(0.0, opens_in_s), 3),
            "shadow_price_s": round(shadow_price_s, 4),
            "over_capacity_by": round(over_capacity, 2),
            "learned": poller.planner.summary(),
        }

    def distribution(self, name: str, workflow_id: str) -> Json:
        """The learned durations of one workflow, with the polls planned on them."""
        return self._poller(name).planner.distribution(workflow_id)

    def limiter_reading(self, name: str) -> LimiterReading:
        """The limit in force, and what a request was worth lately."""
        limiter = self._poller(name).client.limiter
        return LimiterReading(limiter.rate_limit.rate, *limiter.pressure(self._clock.monotonic()))

    def busiest_workflows(self, name: str, most: int) -> list[dict[str, Json]]:
        """The learned durations of the workflows of which most runs ended here."""
        return self._poller(name).planner.busiest(most)

    async def wait_settled(self, run_id: str, timeout_s: float) -> None:
        """Until the run is announced as settled, at most `timeout_s`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await future
        finally:
            waiting = self._waiting.get(run_id)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[run_id]

    async def feed_grown(self, timeout_s: float) -> None:
        """Until events were recorded, at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._feed.wait()

    def filter_errors(self, endpoint: Endpoint) -> int:
        """The number of times that the endpoint's present filter failed on an event here since the start."""
        expression, count = self._filter_errors.get(endpoint.id, ("", 0))
        return count if expression == endpoint.filter else 0

    def expect_endpoints(self, ids: Iterable[str]) -> None:
        """Begin the metric series of these endpoints at zero."""
        self._metrics.expect_endpoints(ids)

    def findings(self) -> list[Finding]:
        """The configuration's warnings, SQLite, disk, files and backups, and whether the daemon is ready."""
        what = "configuration in effect"
        found = [Finding(None, what, f"{p.field}: {p.message}") for p in self.warnings]
        if self.refused:
            advice = "the last reload was refused, and the one before it goes on; correct the file and reload"
            found.append(Finding(False, what, f"{advice}: {'; '.join(self.refused)}"))
        found += [checks.check_sqlite(), check_memory()]
        if self._database.is_sqlite:
            file = database_file.path_of(self._database.url)
            found += [checks.check_disk(file), *checks.check_files(file)]
            if self.backups is not None:
                found.append(self.backups.check())
        if self.housekeeper is not None and (size := self.housekeeper.check_size()) is not None:
            found.append(size)
        failures = self.alerter.failures() if self.alerter else {}
        found += [Finding(False, f"alerts {name}", f"no message arrives: {why}") for name, why in failures.items()]
        if self.tracing is not None and (why := self.tracing.failure) is not None:
            found.append(Finding(False, "traces", f"{why}; deliveries go on, spans are lost; check [otel] endpoint"))
        for name, is_good in self.readiness().items():
            why = (self._database.trouble if name == "database" else None) or "not in order; the log says why"
            found.append(Finding(is_good, f"readiness: {name}", "in order" if is_good else why))
        if not self.pollers:
            detail = "there is no connection; add one under [connections.NAME] to watch runs"
            found.append(Finding(None, "connections", detail))
        return found

    async def send_test_alerts(self, names: Sequence[str] | None) -> list[ChannelTest]:
        """Send a test message by these channels, or by all."""
        return await self.alerter.test(names) if self.alerter else []

    def readiness(self) -> dict[str, bool]:
        """Ready while it is not stopping, its workers stand and the database takes what they write."""
        checks = {
            "running": not self.is_stopping,
            "deliverer": self.deliverer is not None,
            "database": self._database.is_available,
        }
        return checks if self.membership is None else {**checks, "lease": self.membership.lease_guard.is_open}

    def _poller(self, name: str) -> Poller:
        if name not in self.pollers:
            raise NotFound(f"no connection {name!r}; the configuration has {', '.join(self.pollers) or 'none'}")
        return self.pollers[name]
