"""Ports for servers that cannot say which one they took."""

from __future__ import annotations

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
