"""Looking up names in threads of our own.

The event loop's executor would not do: a resolver that hangs holds up its few threads, every deadline's clean-up
and the end of the program. These threads are daemons, and whoever waits for one may leave.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

Lookup = Callable[[str], Awaitable[list[str]]]

_THREADS_MAX = 256  # only names that hang pile up, and each name at most once


class ThreadLookup:
    """Asks the system's resolver (getaddrinfo). Callers that ask for the same name meanwhile share one query."""

    def __init__(self) -> None:
        self._flights: dict[str, asyncio.Future[list[str]]] = {}

    async def __call__(self, name: str) -> list[str]:
        """The addresses of `name`, each once; OSError (gaierror) where there is none."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._start(name)
        return await asyncio.shield(flight)  # one caller's deadline must not take the answer from the others

    def _start(self, name: str) -> asyncio.Future[list[str]]:
        if len(self._flights) >= _THREADS_MAX:
            raise socket.gaierror(socket.EAI_AGAIN, f"{_THREADS_MAX} other names are being looked up without an answer")
        loop = asyncio.get_running_loop()
        flight: asyncio.Future[list[str]] = loop.create_future()
        flight.add_done_callback(lambda done: self._land(name, done))
        self._flights[name] = flight
        threading.Thread(target=_look_up, args=(name, loop, flight), name="lookup", daemon=True).start()
        return flight

    def _land(self, name: str, flight: asyncio.Future[list[str]]) -> None:
        del self._flights[name]
        if not flight.cancelled():
            flight.exception()  # looked at: the callers may all have left


def _look_up(name: str, loop: asyncio.AbstractEventLoop, flight: asyncio.Future[list[str]]) -> None:
    try:
        # as aiohttp asks: no IPv6 addresses on a machine without IPv6
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        answer: list[str] | OSError = list(dict.fromkeys(str(info[4][0]) for info in found))
    except OSError as error:
        answer = error
    except UnicodeError:
        answer = socket.gaierror(socket.EAI_NONAME, "not a name that can be looked up")
    try:
        loop.call_soon_threadsafe(_deliver, flight, answer)
    except RuntimeError:
        return  # the loop has ended meanwhile, and nobody waits any more


def _deliver(flight: asyncio.Future[list[str]], answer: list[str] | OSError) -> None:
    if flight.done():
        return
    if isinstance(answer, OSError):
        flight.set_exception(answer)
    else:
        flight.set_result(answer)
