"""Ports for servers that cannot say which one they took, and whether a server listens."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket

BELOW_THOSE_OF_CONNECTIONS = range(20_000, 32_000)  # the system gives 32768 and more to connections that go out


def free_port() -> int:
    """A port of 127.0.0.1 that is free now; no connection takes it before its server does."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            port = secrets.choice(BELOW_THOSE_OF_CONNECTIONS)
            probe.bind(("127.0.0.1", port))
            return port


async def listens(port: int) -> bool:
    """Whether a server on 127.0.0.1 accepts connections at this port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
