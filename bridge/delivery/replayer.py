"""The replayer: makes what replays selected due again, a batch at a time, never faster than it can be delivered.

The cursor is committed with each batch, so a killed daemon goes on behind it: no event of a selection is passed
over and none made due twice.
"""

from __future__ import annotations

import math

import structlog

from bridge.domain.clock import Clock
from bridge.domain.replay import ReplayState, rest_s
from bridge.runtime.loop import Bell
from bridge.store import replays
from bridge.store.database import Database
from bridge.store.replays import OpenReplay

log = structlog.get_logger()
FAR_AHEAD_REST_S = 1.0
SWITCHED_OFF_REST_S = 10.0


class Replayer:
    """Drains the running replays, each in its turn."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self.bell = Bell()
        self._database = database
        self._clock = clock

    async def run_pass(self) -> float:
        """One batch of every replay that may have one; seconds until the next may."""
        running = await self._database.read(replays.list_open)
        return min([await self._serve(replay) for replay in running], default=math.inf)

    async def _serve(self, replay: OpenReplay) -> float:
        if replay.is_switched_off:
            return SWITCHED_OFF_REST_S
        if replay.is_far_ahead:
            return FAR_AHEAD_REST_S
        wait_s = rest_s(replay.next_batch_at, self._clock.now())
        return wait_s if wait_s > 0 else await self._go_on(replay.id)

    async def _go_on(self, replay_id: str) -> float:
        after = await self._database.write(lambda tx: replays.go_on(tx, replay_id))
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
