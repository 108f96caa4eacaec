"""Connections in memory: bytes arrive in order and late, in pieces, or the connection breaks.

A `Weather` says how late, and how often something breaks, per listening port.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.virtual_loop import Process, VirtualLoop, process

HOST: Final = "127.0.0.1"
PIECE_BYTES_MIN: Final = 16


@dataclass
class Weather:
    """How the network to one port behaves now. Chances are per connection, or per chunk of bytes."""

    latency_s: float = 0.001
    jitter_s: float = 0.002
    refused: float = 0.0
    reset: float = 0.0
    lost: float = 0.0
    """A chunk, and all after it, never arrives: the connection hangs."""
    pieces: float = 0.0


CALM: Final = Weather()


class _FakeSocket:
    """The methods of a socket that aiohttp and the receivers call."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

    def __init__(self, network: Network, name: tuple[str, int]) -> None:
        self._network, self._name = network, name

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def fileno(self) -> int:
        """A descriptor on which nothing ever waits to be read."""
        return self._network.silent.fileno()

    def setsockopt(self, *_: object) -> None:
        """No options here."""


class _Server:
    """The result of `create_server`."""

    def __init__(self, network: Network, port: int) -> None:
        self._network, self._port = network, port
        self.sockets = [_FakeSocket(network, (HOST, port))]

    def close(self) -> None:
        self._network.servers.pop(self._port, None)

    async def wait_closed(self) -> None:
        """It is closed."""

    def is_serving(self) -> bool:
        return True


class Network:
    """All ports and connections of one life."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.servers: dict[int, tuple[Callable[[], Any], Context]] = {}
        self.weather: dict[int, Weather] = {}
        self.silent, self._other_end = socket.socketpair()
        self._dialled: dict[Any, int] = {}
        self._next_port = 20000
        self._ends: list[_End] = []

    def of(self, port: int) -> Weather:
        """The weather at this port."""
        return self.weather.get(port, CALM)

    def listen(self, factory: Callable[[], Any], _host: Any, port: int | None) -> _Server:
        if not port:
            self._next_port += 1
            port = self._next_port
        if port in self.servers:
            raise OSError(errno.EADDRINUSE, "address in use")
        self.servers[port] = factory, copy_context()
        return _Server(self, port)

    async def dial(self, sock: Any, address: tuple[str, int]) -> None:
        port = address[1]
        weather, chance = self.of(port), self.loop.chance
        await asyncio.sleep(2 * self.latency_s(weather))
        if chance.random() < weather.lost:
            await asyncio.sleep(3600)
        if port not in self.servers or chance.random() < weather.refused:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")
        self._dialled[sock] = port

    def connect(self, factory: Callable[[], Any], sock: Any) -> tuple[_End, Any]:
        port = self._dialled.pop(sock)
        sock.close()
        if port not in self.servers:
            raise ConnectionResetError(errno.ECONNRESET, "connection reset")
        serve, context = self.servers[port]
        self._next_port += 1
        here, there = (HOST, self._next_port), (HOST, port)
        client = _End(self, port, here, there, copy_context())
        server = _End(self, port, there, here, context.copy())
        client.peer, server.peer = server, client
        self._ends = [end for end in self._ends if not end.is_over]
        self._ends += [client, server]
        client.protocol = factory()
        client.protocol.connection_made(client)
        server.run(lambda: setattr(server, "protocol", serve()))
        server.run(lambda: server.protocol.connection_made(server))
        return client, client.protocol

    def latency_s(self, weather: Weather) -> float:
        """One way, now."""
        return weather.latency_s + self.loop.chance.random() * weather.jitter_s

    def count_ends(self, of: Process) -> int:
        """The open connections of a process."""
        return sum(1 for end in self._ends if end.owner is of and not end.is_over)

    def kill(self, dead: Process) -> None:
        """Reset every connection of a process that was killed, and close its ports."""
        for end in self._ends:
            if end.owner is dead and not end.is_over:
                end.is_over = True
                end.peer.lose_later(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        self.servers = {port: it for port, it in self.servers.items() if it[1].get(process) is not dead}


class _End(asyncio.Transport):
    """One end of a connection."""

    peer: _End
    protocol: Any = None

    def __init__(
        self, network: Network, port: int, name: tuple[str, int], peername: tuple[str, int], context: Context
    ) -> None:
        super().__init__({"peername": peername, "sockname": name, "socket": _FakeSocket(network, name)})
        self._network, self._port, self.context = network, port, context
        self.owner = context.get(process)
        self.is_over = False
        self._is_closing = False
        self._is_broken = False
        self._is_paused = False
        self._arrived: list[bytes | None] = []
        self._arrives_at = 0.0

    def run(self, call: Callable[[], object]) -> None:
        """Call in the context of this end's process."""
        if not (self.owner is not None and self.owner.is_dead):
            self.context.run(call)

    # -- what goes out

    def write(self, data: Any) -> None:
        if self._is_closing or self.is_over or not data:
            return
        weather, chance = self._network.of(self._port), self._network.loop.chance
        if self._is_broken or chance.random() < weather.lost:
            self._is_broken = True
            return
        if chance.random() < weather.reset:
            self._break()
            return
        data = bytes(data)
        if chance.random() < weather.pieces and len(data) > PIECE_BYTES_MIN:
            cut = chance.randrange(1, len(data))
            self._send(data[:cut])
            data = data[cut:]
        self._send(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(each) for each in list_of_data))

    def _send(self, data: bytes | None) -> None:
        loop, peer = self._network.loop, self.peer
        at_s = max(loop.clock.now_s + self._network.latency_s(self._network.of(self._port)), self._arrives_at)
        self._arrives_at = at_s
        loop.call_at(at_s, peer.arrive, data, context=peer.context)

    def _break(self) -> None:
        error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        self.lose_later(error)
        self.peer.lose_later(error)

    def write_eof(self) -> None:
        self._send(None)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 65536

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    # -- what comes in

    def arrive(self, data: bytes | None) -> None:
        """Bytes, or None for their end."""
        if self.is_over or self._is_closing:
            return
        if self._is_paused:
            self._arrived.append(data)
        elif data is not None:
            self.protocol.data_received(data)
        elif not self.protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        arrived, self._arrived = self._arrived, []
        for data in arrived:
            self._network.loop.call_soon(self.arrive, data, context=self.context)

    def is_reading(self) -> bool:
        return not self._is_paused

    # -- its end

    def close(self) -> None:
        if not self._is_closing and not self.is_over:
            self._send(None)
            self._is_closing = True
            self.lose_later(None)

    def abort(self) -> None:
        if not self.is_over:
            self._is_closing = True
            self.peer.lose_later(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
            self.lose_later(None)

    def is_closing(self) -> bool:
        return self._is_closing or self.is_over

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def lose_later(self, error: Exception | None) -> None:
        """The connection is lost at this end in a moment."""
        self._network.loop.call_later(0.0 if error is None else 0.001, self._lose, error, context=self.context)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_over:
            self.is_over = True
            self.protocol.connection_lost(error)
