"""The replayer: makes the events that replays selected due again, in batches, no faster than they can be delivered.

The cursor is committed with each batch. A daemon that was killed continues after it, so no event of a selection is
skipped or made due twice.
"""

from __future__ import annotations

import math

import structlog

from bridge.domain.clock import Clock
from bridge.domain.replay import ReplayState, rest_s
from bridge.runtime.loop import Bell
from bridge.store import replays
from bridge.store.database import Database
from bridge.store.replays import RunningReplay

log = structlog.get_logger()
FAR_AHEAD_REST_S = 1.0
SWITCHED_OFF_REST_S = 10.0


class Replayer:
    """Advances the running replays."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self.bell = Bell()
        self._database = database
        self._clock = clock

    async def run_pass(self) -> float:
        """Make one batch of each replay that may have one due; return the seconds until the next batch."""
        running = await self._database.read(replays.list_running)
        return min([await self._serve(replay) for replay in running], default=math.inf)

    async def _serve(self, replay: RunningReplay) -> float:
        if replay.is_disabled:
            return SWITCHED_OFF_REST_S
        if replay.is_far_ahead:
            return FAR_AHEAD_REST_S
        wait_s = rest_s(replay.next_batch_at, self._clock.now())
        return wait_s if wait_s > 0 else await self._make_batch_due(replay.id)

    async def _make_batch_due(self, replay_id: str) -> float:
        after = await self._database.write(lambda tx: replays.advance(tx, replay_id))
        if after is None:
            return FAR_AHEAD_REST_S
        if after.state is ReplayState.RUNNING:
            return rest_s(after.next_batch_at, self._clock.now())
        log.info(
            "replay.ended",
            replay_id=after.id,
            endpoint=after.endpoint_id,
            state=after.state.value,
            replayed=after.replayed,
        )
        return math.inf
