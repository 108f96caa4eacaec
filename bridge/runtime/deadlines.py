"""Deadlines of many waits, kept by one timer: a timer of its own makes a request a tenth dearer."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType


class Deadlines:
    """Ends waits that last too long, as `asyncio.timeout` does. Create it inside the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._kept: dict[Deadline, None] = {}
        """In the order in which they began, so that those of one instant always end in the same order."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def within(self, seconds: float) -> Deadline:
        """A block that raises TimeoutError unless it ends within so many seconds."""
        return Deadline(self, self._loop.time() + seconds)

    def until(self, at: float) -> Deadline:
        """A block that raises TimeoutError unless it ends by this time of the loop."""
        return Deadline(self, at)

    def keep(self, deadline: Deadline) -> None:
        """End this one when its time has come."""
        self._kept[deadline] = None
        if deadline.at < self._timer_at:
            self._set_timer(deadline.at)

    def drop(self, deadline: Deadline) -> None:
        """Forget this one. The timer stays: mostly the next deadline is later, and moving it would cost as much."""
        self._kept.pop(deadline, None)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at == math.inf else self._loop.call_at(at, self._end_due)

    def _end_due(self) -> None:
        now = self._loop.time()
        for deadline in [each for each in self._kept if each.at <= now]:
            del self._kept[deadline]
            deadline.end()
        self._set_timer(min((each.at for each in self._kept), default=math.inf))


class Deadline:
    """One block of the running task that must end by `at`."""

    __slots__ = ("_cancelling", "_deadlines", "_is_over", "_task", "at")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self.at = at
        self._deadlines = deadlines
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task that it can end")
        self._task, self._cancelling = task, task.cancelling()
        self._deadlines.keep(self)

    def end(self) -> None:
        """End the block: its time is over."""
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._deadlines.drop(self)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
