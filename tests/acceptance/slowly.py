"""Slow stories run behind the other tests, on a thread with an event loop of its own.

If several processes share the tests, each runs only the stories that its tests ask for, when they ask.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any

Story = Callable[[], Coroutine[Any, Any, Any]]
TIMEOUT_S = 600.0


class Slowly:
    """Stories by name. Idle ones run side by side, busy ones one at a time, because they need the processor."""

    def __init__(self, idle: dict[str, Story], busy: dict[str, Story]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow stories", daemon=True)
        self._thread.start()
        self._one_at_a_time = asyncio.Lock()
        self._begun: dict[str, Future[Any]] = {}
        self._stories = idle | {name: partial(self._in_turn, story) for name, story in busy.items()}
        for name in self._stories if "PYTEST_XDIST_WORKER" not in os.environ else ():
            self._begin(name)

    def _begin(self, name: str) -> None:
        if name not in self._begun:
            self._begun[name] = asyncio.run_coroutine_threadsafe(self._stories[name](), self._loop)

    async def _in_turn(self, story: Story) -> Any:
        async with self._one_at_a_time:
            return await story()

    def outcome_of(self, name: str) -> Any:
        """Wait for the end of a story; returns its result, or raises its exception."""
        self._begin(name)
        return self._begun[name].result(TIMEOUT_S)

    def stop(self) -> None:
        """Cancel the stories that still run, so that no process is left."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
