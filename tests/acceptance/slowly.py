"""Slow stories go on behind the other tests, on a thread with an event loop of its own.

Where several processes share the tests each tells only the stories that its tests ask for, when they ask.
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
    """Stories by name. The idle ones wait side by side; of the busy ones only one at a time takes the processor."""

    def __init__(self, idle: dict[str, Story], busy: dict[str, Story]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow stories", daemon=True)
        self._thread.start()
        self._one_at_a_time = asyncio.Lock()
        self._told: dict[str, Future[Any]] = {}
        self._stories = idle | {name: partial(self._in_turn, story) for name, story in busy.items()}
        for name in self._stories if "PYTEST_XDIST_WORKER" not in os.environ else ():
            self._begin(name)

    def _begin(self, name: str) -> None:
        if name not in self._told:
            self._told[name] = asyncio.run_coroutine_threadsafe(self._stories[name](), self._loop)

    async def _in_turn(self, story: Story) -> Any:
        async with self._one_at_a_time:
            return await story()

    def outcome_of(self, name: str) -> Any:
        """What the story saw, as soon as it is over; its exception where it has one."""
        self._begin(name)
        return self._told[name].result(TIMEOUT_S)

    def stop(self) -> None:
        """Break off what still goes on, so that no process is left."""
        asyncio.run_coroutine_threadsafe(self._break_off(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _break_off(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
