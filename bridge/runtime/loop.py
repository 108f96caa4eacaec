"""The loop that repeats a worker's pass, and the bell that wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bridge.domain.errors import StoreUnavailable

log = structlog.get_logger()
REST_MAX_S = 10.0  # a resting loop passes at least this often, as a sign of life for the watchdog
_FAILURE_REST_MAX_S = 30.0


class Bell:
    """Wakes the one worker that rests; several rings before it wakes count as one.

    A future and a timer, because every event wakes workers: `asyncio.Event` and `asyncio.timeout` take half as long
    again.
    """

    def __init__(self) -> None:
        self._has_rung = False
        self._resting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the worker now, or skip its next rest."""
        self._has_rung = True
        if self._resting is not None:
            self._wake()

    async def wait(self, timeout_s: float) -> bool:
        """Rest until the bell rings, at most `timeout_s` seconds; return whether it rang."""
        if not self._has_rung:
            loop = asyncio.get_running_loop()
            self._resting = resting = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            try:
                await resting
            finally:
                timer.cancel()
                self._resting = None
        has_rung, self._has_rung = self._has_rung, False
        return has_rung

    def _wake(self) -> None:
        resting, self._resting = self._resting, None
        if resting is not None and not resting.done():
            resting.set_result(None)


class Loop:
    """Repeats a pass, which returns the seconds that it may rest; 0 means there is more to do at once.

    A pass that raises is logged and repeated after a growing rest. It gives no sign of life, so the watchdog restarts
    a daemon whose loop only fails; StoreUnavailable is an exception, because a restart would not help. Passes begin
    at least `gap_s` apart: a single pass is not delayed, and under load one pass does the work of several.
    """

    def __init__(
        self,
        name: str,
        run_pass: Callable[[], Awaitable[float]],
        bell: Bell,
        beat: Callable[[str], None],
        *,
        gap_s: float = 0.0,
    ) -> None:
        self.name = name
        self._gap_s = gap_s
        self._run_pass = run_pass
        self._bell = bell
        self._beat = beat
        self._failures = 0
        self._store_is_unavailable = False

    async def run(self) -> None:
        """Pass and rest until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            began_at = clock()
            rest_s = await self._pass_once()
            if rest_s > 0:
                await self._bell.wait(min(rest_s, REST_MAX_S))
            await asyncio.sleep(max(began_at + self._gap_s - clock(), 0))

    async def _pass_once(self) -> float:
        try:
            rest_s = await self._run_pass()
        except StoreUnavailable as error:
            if not self._store_is_unavailable:
                log.error("store.unavailable", worker=self.name, reason=str(error))
            self._store_is_unavailable = True
            self._beat(self.name)
            return 1.0
        except Exception:
            self._failures += 1
            log.exception("worker.failed", worker=self.name, failures=self._failures)
            return min(0.1 * 2.0 ** min(self._failures, 10), _FAILURE_REST_MAX_S)
        if self._store_is_unavailable:
            log.info("store.recovered", worker=self.name)
        self._failures, self._store_is_unavailable = 0, False
        self._beat(self.name)
        return rest_s
