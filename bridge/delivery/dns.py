"""Name lookups in daemon threads.

A resolver that hangs would occupy the few threads of the event loop's executor and delay the end of the process.
Callers may stop waiting for these threads at any time.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

Lookup = Callable[[str], Awaitable[list[str]]]

THREADS_MAX = 256  # only names that hang pile up, and each name at most once


class ThreadLookup:
    """Asks the system's resolver (getaddrinfo). Concurrent callers with the same name share one query."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[list[str]]] = {}

    async def __call__(self, name: str) -> list[str]:
        """The addresses of `name`, each once. Raises OSError (gaierror) if there is none."""
        future = self._pending.get(name)
        if future is None:
            future = self._start(name)
        return await asyncio.shield(future)  # one caller's deadline must not cancel the others

    def _start(self, name: str) -> asyncio.Future[list[str]]:
        if len(self._pending) >= THREADS_MAX:
            raise socket.gaierror(socket.EAI_AGAIN, f"{THREADS_MAX} other names are being looked up without an answer")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        future.add_done_callback(lambda done: self._finish(name, done))
        self._pending[name] = future
        threading.Thread(target=_look_up, args=(name, loop, future), name="lookup", daemon=True).start()
        return future

    def _finish(self, name: str, future: asyncio.Future[list[str]]) -> None:
        del self._pending[name]
        if not future.cancelled():
            future.exception()  # marked as retrieved: all callers may have left


def _look_up(name: str, loop: asyncio.AbstractEventLoop, future: asyncio.Future[list[str]]) -> None:
    try:
        # as aiohttp asks: no IPv6 addresses on a machine without IPv6
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        answer: list[str] | OSError = list(dict.fromkeys(str(info[4][0]) for info in found))
    except OSError as error:
        answer = error
    except UnicodeError:
        answer = socket.gaierror(socket.EAI_NONAME, "not a name that can be looked up")
    try:
        loop.call_soon_threadsafe(_deliver, future, answer)
    except RuntimeError:
        return  # the loop has ended


def _deliver(future: asyncio.Future[list[str]], answer: list[str] | OSError) -> None:
    if future.done():
        return
    if isinstance(answer, OSError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
