"""What is known about one POST while it is under way: when each phase began, and with whom we speak.

start ─ dns ─ connect ─ tls ─ headers sent ─ first byte of the answer ─ its status
"""

from __future__ import annotations

import functools
import ssl
import time
from contextvars import ContextVar
from typing import Any

_SPANS = (("dns", "dns_asked", "dns_answered"), ("connect", "dialled", "connected"), ("first_byte", "sent", "answered"))
_SPANS_TLS = (
    ("dns", "dns_asked", "dns_answered"),
    ("connect", "dialled", "tls_begun"),
    ("tls", "tls_begun", "connected"),
    ("first_byte", "sent", "answered"),
)
current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


class Exchange:
    """One POST's marks on the monotonic clock; a mark is absent until its moment has come."""

    def __init__(self) -> None:
        self._marks = {"start": time.monotonic()}
        self.peer: str | None = None
        self.status: int | None = None  # of a whole status line, whatever came of the rest of the answer
        self.is_reused = False

    def mark(self, moment: str) -> None:
        """Note that `moment` is now; of two dials of one exchange the later counts."""
        self._marks[moment] = time.monotonic()

    def has(self, moment: str) -> bool:
        """Whether `moment` has come."""
        return moment in self._marks

    def note_peer(self, address: object) -> None:
        """Note who is spoken to; `address` as sockets tell it."""
        if isinstance(address, tuple) and len(address) >= 2:
            host, port = address[0], address[1]
            self.peer = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    def begin_again(self) -> None:
        """Forget the first try, all but its start: the request is sent once more on a fresh connection."""
        self._marks = {"start": self._marks["start"]}
        self.is_reused = False

    @property
    def phases(self) -> dict[str, int]:
        """Milliseconds of dns, connect, tls and first_byte, as far as they came to their end."""
        marks, found = self._marks, dict[str, int]()
        for phase, begin, end in _SPANS_TLS if "tls_begun" in marks else _SPANS:
            if begin in marks and end in marks:
                found[phase] = max(0, round((marks[end] - marks[begin]) * 1000))
        return found

    @property
    def duration_ms(self) -> int:
        """Milliseconds since the start."""
        return round((time.monotonic() - self._marks["start"]) * 1000)


def mark(moment: str) -> None:
    """Note `moment` on the exchange that the running task works on, if there is one."""
    exchange = current.get()
    if exchange is not None:
        exchange.mark(moment)


def note_peer(address: object) -> None:
    """Note on the running task's exchange, if there is one, who is dialled; `address` as sockets tell it."""
    exchange = current.get()
    if exchange is not None:
        exchange.note_peer(address)


class TimedContext(ssl.SSLContext):
    """A TLS context that notes when a handshake begins: aiohttp has no hook between connecting and TLS."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As SSLContext."""
        mark("tls_begun")
        return super().wrap_bio(*args, **kwargs)


def client_tls() -> TimedContext:
    """The context to speak to subscribers with: their certificate and host name are checked, TLS 1.2 or newer."""
    context = TimedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    return context


@functools.cache
def default_tls() -> TimedContext:
    """One `client_tls` for the whole process: reading the certificates takes a tenth of a second."""
    return client_tls()
