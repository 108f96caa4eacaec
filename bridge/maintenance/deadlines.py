"""Deadlines that no poll noticed, because the connection did not answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from bridge.domain import transition
from bridge.domain.run import Run, RunError, RunStatus
from bridge.polling.poll_results import expired_message
from bridge.store import runs
from bridge.store.database import Database
from bridge.store.transaction import Tx

log = structlog.get_logger()
EVERY_S: Final = 5.0
GRACE_S: Final = 10.0  # a connection that answers has polled the run for the last time by then
_BATCH_MAX: Final = 500


async def expire_overdue(database: Database) -> list[Run]:
    """Settle as `expired` the runs whose deadline passed more than GRACE_S ago; returns them."""

    def expire(tx: Tx) -> list[Run]:
        expired = []
        for run in _list_overdue(tx, _BATCH_MAX):
            if not transition.is_expired(run, tx.now):
                continue
            error = RunError(expired_message(run), "deadline")
            decision = transition.settle(run, RunStatus.EXPIRED, error, now=tx.now)
            if decision and (after := runs.record_decision(tx, run, decision, node=None, keep_lease=False)):
                expired.append(after)
        return expired

    if not await database.read(lambda tx: _list_overdue(tx, 1)):
        return []
    expired = await database.write(expire)
    for run in expired:
        log.info("run.expired", run_id=run.id, connection=run.connection)
    return expired


def _list_overdue(tx: Tx, limit: int) -> list[Run]:
    return runs.list_expired(tx, tx.now - timedelta(seconds=GRACE_S), limit)
