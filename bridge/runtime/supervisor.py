"""Supervision: one task group runs every worker, and a worker that dies ends the daemon with its reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog

from bridge.domain.errors import WorkerDied
from bridge.runtime.loop import Bell, Loop
from bridge.runtime.systemd import Watchdog

log = structlog.get_logger()


class Supervisor:
    """An async context manager around everything that uses the workers.

    A worker runs until `end`. If one ends by itself, with an error or without, the others and the body are cancelled
    and leaving the context raises WorkerDied. An exception of the body leaves it unchanged.
    """

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._group = asyncio.TaskGroup()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._has_died = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as failures:  # a dead worker stands before what its death made of the body
            raise failures.exceptions[0] from None

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a worker that gives no signs of life, because it waits for something rare."""
        self._tasks[name] = self._group.create_task(self._watch(name, run), name=name)

    def start_loop(
        self, name: str, run_pass: Callable[[], Awaitable[float]], bell: Bell | None = None, *, gap_s: float = 0.0
    ) -> None:
        """Run a `Loop` that the watchdog expects to pass."""
        self._watchdog.register(name)
        self.start(name, Loop(name, run_pass, bell or Bell(), self._watchdog.beat, gap_s=gap_s).run)

    async def end(self, name: str) -> None:
        """Cancel a worker, if there is one of this name, and wait until it has ended."""
        task = self._tasks.pop(name, None)
        self._watchdog.unregister(name)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def end_all(self, *, but: frozenset[str] = frozenset()) -> None:
        """End every worker except those named."""
        for name in [name for name in self._tasks if name not in but]:
            await self.end(name)

    async def _watch(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        reason, cause = "it returned", None
        try:
            await run()
        except asyncio.CancelledError:
            if name not in self._tasks or self._has_died:  # by `end`, or by the group
                raise
            reason = "it was cancelled by something that it called"
        except Exception as error:  # noqa: BLE001 - whatever it is, the daemon ends with it
            reason, cause = f"{type(error).__name__}: {error}", error
        self._has_died = True
        log.error("worker.died", worker=name, reason=reason, exc_info=cause)
        raise WorkerDied(f"the worker {name!r} died ({reason}), so the daemon has stopped; start it again")
