"""Writing down what a look brought: the decision about the run, the health of the account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog

from bridge.domain import transition
from bridge.domain.connection import Connection
from bridge.domain.event import EventType
from bridge.domain.observation import Observation
from bridge.domain.run import Run, RunError, RunStatus
from bridge.domain.timestamps import format_duration
from bridge.polling.connection_client import HealthChange
from bridge.runtime.metrics import Metrics
from bridge.store import connections, endpoints, transitions
from bridge.store.batching import GAP_S, GROUP_MAX, Batcher
from bridge.store.database import Database
from bridge.store.transaction import Tx

log = structlog.get_logger()
BEHIND_MIN = 2 * GROUP_MAX  # looks whose news is not written yet: one group at the desk, and the next


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look saw of a run; `since` as in `transition.observe`."""

    before: Run
    seen: Observation
    since: datetime | None


class Recorder:
    """The pen of one poller; writes only under its node's claim."""

    def __init__(self, connection: Connection, database: Database, node: str, metrics: Metrics) -> None:
        self._connection = connection
        self._database = database
        self._node = node
        self._metrics = metrics
        self._log = log.bind(connection=connection.name)  # made ready once: half of what a line costs
        self._batcher = Batcher(self._record_all, gap_s=GAP_S)

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that nothing more should be looked at meanwhile."""
        return self._batcher.pending >= BEHIND_MIN

    async def record(
        self, before: Run, seen: Observation, *, since: datetime | None, expires: bool, is_overdue: bool
    ) -> Run | None:
        """The run after this observation, with all that it tells; None if it is no longer ours to write."""
        if not (expires or is_overdue):
            return self._told(before, await self._batcher.submit(_Look(before, seen, since)))

        def record(tx: Tx) -> Run | None:
            [(_, decision)] = _decide(tx, [_Look(before, seen, since)])
            run = self._put(tx, before, decision)
            if run is not None and is_overdue and not run.settled:
                run = self._put(tx, run, transition.overdue(run, now=tx.now))
            if run is not None and expires:
                run = self._put(tx, run, _expired(run, tx.now))
            return run

        return self._told(before, await self._database.write(record))

    async def _record_all(self, looks: list[_Look]) -> list[Run | None]:
        def record(tx: Tx) -> list[Run | None]:
            decided = _decide(tx, looks)
            changes = [transitions.Change(look.before, decision) for look, decision in decided if decision is not None]
            made = transitions.record_all(tx, changes, node=self._node, keep=True)
            after = {change.before.id: run for change, run in zip(changes, made, strict=True)}
            return [after[look.before.id] if decision is not None else look.before for look, decision in decided]

        return await self._database.write(record)

    async def give_up(self, before: Run, lost: RunError | None) -> Run | None:
        """The run after the bridge's own verdict: lost for this reason, else expired."""

        def record(tx: Tx) -> Run | None:
            decision = transition.settle(before, RunStatus.LOST, lost, now=tx.now) if lost else _expired(before, tx.now)
            return self._put(tx, before, decision)

        return self._told(before, await self._database.write(record))

    def _put(self, tx: Tx, before: Run, decision: transition.Decision | None) -> Run | None:
        if decision is None:
            return before
        return transitions.record(tx, before, decision, node=self._node, keep=True)

    def _told(self, before: Run, after: Run | None) -> Run | None:
        if after is not None and before.status is not after.status:
            self._metrics.of(self._metrics.transitions, self._connection.name, after.status.value).inc()
            self._log.info(
                "run.transitioned",
                run_id=after.id,
                provider_run_id=after.provider_run_id,
                before=before.status.value,
                after=after.status.value,
                provider_status=after.provider_status,
                polls=after.polls,
            )
        return after

    async def tell_health(self, turned: HealthChange) -> None:
        """Record and announce that the account's health has turned."""
        connection = self._connection

        def tell(tx: Tx) -> bool:
            return connections.change_health(
                tx, connection.name, provider=connection.provider, health=turned.health, reason=turned.reason
            )

        if await self._database.write(tell):
            event = EventType.CONNECTION_FAILING if turned.reason else EventType.CONNECTION_RECOVERED
            self._log.warning(event.value, reason=turned.reason)


def _decide(tx: Tx, looks: list[_Look]) -> list[tuple[_Look, transition.Decision | None]]:
    moved = sorted({look.before.id for look in looks if look.seen.progress != look.before.progress})
    wanting = endpoints.wanting_progress(tx, moved) if moved else set()
    return [(look, _decide_one(look, tx.now, wants_progress=look.before.id in wanting)) for look in looks]


def _decide_one(look: _Look, now: datetime, *, wants_progress: bool) -> transition.Decision | None:
    return transition.observe(look.before, look.seen, now=now, wants_progress=wants_progress, since=look.since)


def _expired(run: Run, now: datetime) -> transition.Decision | None:
    return transition.settle(run, RunStatus.EXPIRED, RunError(expired_message(run), "deadline"), now=now)


def expired_message(run: Run) -> str:
    """Why the bridge gave up on a run."""
    if run.deadline_at is None:
        return "the deadline for this run passed"
    waited = format_duration(round((run.deadline_at - run.registered_at).total_seconds()) or 1)
    return f"no outcome within the deadline of {waited}; the provider last said {run.provider_status or 'nothing'}"
