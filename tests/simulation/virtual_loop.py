"""An event loop in virtual time: no threads, no sockets, no waiting, and the same order for the same seed.

Time jumps to the next timer as soon as nothing is ready. Among what is ready at one instant the tasks are shuffled,
because real arrivals come in any order; plain callbacks keep theirs, which asyncio promises.

Each callback belongs to the `Process` in whose context it was made. When a process is killed, nothing of it runs any
more: no callback, no `finally`, no `except`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, Final

from tests.simulation.virtual_clock import VirtualClock

CALLBACKS_MAX_AT_ONE_INSTANT: Final = 200_000  # a busy loop never ends: virtual time stands still in it


@dataclass(eq=False)
class Process:
    """The tasks that are killed together; `name` is for traces."""

    name: str
    is_dead: bool = False


process: ContextVar[Process | None] = ContextVar("process", default=None)


class StandsStill(Exception):
    """Callbacks follow each other without end while no time passes."""


class _Handle:
    """One callback that is ready or due."""

    __slots__ = ("_callback", "_context", "is_cancelled", "is_task", "when_s")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> None:
        self._context = context if context is not None else copy_context()
        self._callback: Any = callback, args
        self.is_cancelled = False
        self.is_task = isinstance(getattr(callback, "__self__", None), asyncio.Task)
        self.when_s = 0.0

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s

    def run(self) -> None:
        """Call it, unless it is cancelled or its process is dead."""
        owner = self._context.get(process)
        if not self.is_cancelled and not (owner is not None and owner.is_dead):
            callback, args = self._callback
            self._context.run(callback, *args)


class _Task(asyncio.Task[Any]):
    """A task that begins with the next round of the loop, in every version of Python."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, eager_start: bool = False, **options: Any) -> None:
        super().__init__(coro, **options)


@dataclass(eq=False)
class VirtualLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated life; `network` and `chance` come from outside."""

    clock: VirtualClock
    chance: random.Random
    network: Any = None
    callbacks: int = 0
    crash_in: int | None = None
    """Callbacks until `crash` is called between two of them; None: not."""
    crash: Callable[[], None] = lambda: None
    faults: list[dict[str, Any]] = field(default_factory=list)
    """What the exception handler was called with."""

    def __post_init__(self) -> None:
        self._ready: list[_Handle] = []
        self._due: list[tuple[float, int, _Handle]] = []
        self._numbers = itertools.count()
        self._is_stopping = False
        self._is_running = False
        # Kept, so that no `finally` of a killed one runs when it is collected.
        self._tasks: list[tuple[asyncio.Task[Any], Process | None]] = []
        self._tasks_max = 1000

    # -- running

    def run_forever(self) -> None:
        self._is_stopping = False
        self._is_running = True
        before = asyncio._get_running_loop()  # noqa: SLF001 - for event loops
        asyncio._set_running_loop(self)  # noqa: SLF001
        try:
            at_s, count = self.clock.now_s, 0
            while not self._is_stopping:
                self._advance()
                if self.clock.now_s != at_s:
                    at_s, count = self.clock.now_s, 0
                batch, self._ready = self._shuffled(self._ready), []
                for handle in batch:
                    handle.run()
                    if self.crash_in is not None:
                        self._count_down()
                count += len(batch)
                self.callbacks += len(batch)
                if count > CALLBACKS_MAX_AT_ONE_INSTANT:
                    raise StandsStill(f"{count} callbacks at {self.clock.now_s:.3f} s")
        finally:
            asyncio._set_running_loop(before)  # noqa: SLF001
            self._is_running = False

    def run_until_complete(self, future: Any) -> Any:
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return task.result()

    def _advance(self) -> None:
        """Go to the next timer if nothing is ready, and make ready what is due."""
        due = self._due
        while due and due[0][2].is_cancelled:
            heapq.heappop(due)
        if not self._ready:
            if not due:
                raise StandsStill("nothing is ready and nothing is due: every task waits for another")
            self.clock.now_s = max(self.clock.now_s, due[0][0])
        while due and due[0][0] <= self.clock.now_s:
            self._ready.append(heapq.heappop(due)[2])

    def _shuffled(self, ready: list[_Handle]) -> list[_Handle]:
        places = [place for place, handle in enumerate(ready) if handle.is_task]
        if len(places) > 1:
            order = places.copy()
            self.chance.shuffle(order)
            moved = ready.copy()
            for place, origin in zip(places, order, strict=True):
                moved[place] = ready[origin]
            return moved
        return ready

    def _count_down(self) -> None:
        assert self.crash_in is not None
        self.crash_in -= 1
        if self.crash_in < 0:
            self.crash_in = None
            self.crash()

    def stop(self) -> None:
        self._is_stopping = True

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""

    async def shutdown_asyncgens(self) -> None:
        """Nothing to shut down."""

    # -- callbacks

    def time(self) -> float:
        return self.clock.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self.clock.now_s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, context)
        handle.when_s = when
        heapq.heappush(self._due, (when, next(self._numbers), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        context: Context | None = options.get("context")
        owner = process.get() if context is None else context.get(process)
        task = _Task(coro, loop=self, **options)
        self._tasks.append((task, owner))
        if len(self._tasks) > self._tasks_max:
            self._tasks = [each for each in self._tasks if not each[0].done()]
            self._tasks_max = 2 * len(self._tasks) + 1000
        return task

    def count_tasks(self, of: Process) -> int:
        """The tasks of a process that are not done."""
        return sum(1 for task, owner in self._tasks if owner is of and not task.done())

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run `func` a moment later, in one go: a thread that takes its time."""
        answer = self.create_future()

        def run() -> None:
            if answer.done():
                return
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - the caller's
                answer.set_exception(error)
            else:
                self.call_soon(_answer, answer, result)

        self.call_later(self.chance.random() * 0.002, run)
        return answer

    # -- errors

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Never."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    default_exception_handler = call_exception_handler

    # -- the network

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await self.network.dial(sock, address)

    async def create_connection(self, protocol_factory: Any, *_: Any, sock: Any, **__: Any) -> Any:  # type: ignore[override]
        return self.network.connect(protocol_factory, sock)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        return self.network.listen(protocol_factory, host, port)


def take_over() -> None:
    """Make tasks begin in the same order in every version of Python: aiohttp begins some at once where it can."""
    asyncio.Task = asyncio.tasks.Task = _Task  # type: ignore[misc]


def _answer(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
