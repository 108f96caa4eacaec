"""A receiver of webhooks: verifies every signature, keeps what arrived, and answers as its script says.

As a process it can be read and scripted over HTTP: GET /_received, POST /_script, POST /_secrets, POST /_reset.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final, Self

from aiohttp import web

from bridge.domain.clock import Clock, SystemClock
from bridge.domain.signing.hmac_v1 import secret_key, verify
from bridge.sandbox.fake_provider import reset_connection
from bridge.sandbox.http_server import Door
from bridge.sandbox.received import Received, Reply, ReplyKind
from bridge.sandbox.receiver_control import control_routes

BODY_BYTES_MAX: Final = 4 * 1024 * 1024


class Receiver:
    """Answers 204 to what verifies and 401 to what does not, unless a script says otherwise.

    Secrets and scripts belong to one path, or with path None to all. Without any secret nothing can be
    verified and everything is taken.
    """

    def __init__(self, *secrets: str, clock: Clock | None = None, tolerance_s: int = 300) -> None:
        self.received: list[Received] = []
        self._clock = clock or SystemClock()
        self._tolerance_s = tolerance_s
        self._keys: defaultdict[str | None, list[bytes]] = defaultdict(list)
        self._scripts: defaultdict[str | None, deque[Reply]] = defaultdict(deque)
        self._always: dict[str | None, Reply] = {}
        self._every: tuple[int, Reply] | None = None
        self._count = 0
        self._arrival = asyncio.Condition()
        self._let_go = asyncio.Event()
        self._door = Door()
        for secret in secrets:
            self.add_secret(secret)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes([*control_routes(self), web.post("/{path:.*}", self._take)])
        await self._door.open(app, host, port)
        return self

    async def stop(self) -> None:
        """Let go of hanging requests and stop listening."""
        self._let_go.set()
        await self._door.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def origin(self) -> str:
        """`http://host:port`."""
        return self._door.origin

    def url(self, path: str = "/hooks") -> str:
        """An address to send to; any path will do."""
        return self._door.origin + path

    def add_secret(self, secret: str, *, path: str | None = None) -> None:
        """Accept signatures with this `whsec_…` secret; ValueError if it is malformed."""
        self._keys[path].append(secret_key(secret))

    def script(self, *replies: Reply, path: str | None = None) -> None:
        """Give the next requests these answers, one each, in order."""
        self._scripts[path].extend(replies)

    def always(self, reply: Reply | None, *, path: str | None = None) -> None:
        """Give this answer once the script is used up; None goes back to judging the signature."""
        self._always.pop(path, None)
        if reply is not None:
            self._always[path] = reply

    def every(self, nth: int, reply: Reply | None) -> None:
        """Give every `nth` request this answer; None stops it."""
        self._every = None if reply is None else (nth, reply)

    def reset(self) -> None:
        """Forget what arrived and every script; secrets stay."""
        self.received.clear()
        self._scripts.clear()
        self._always.clear()
        self._every = None
        self._let_go.set()
        self._let_go = asyncio.Event()

    async def wait_for(
        self, predicate: Callable[[Sequence[Received]], bool], timeout_s: float = 10.0
    ) -> list[Received]:
        """Everything received, as soon as `predicate` holds for it; TimeoutError telling what there was."""
        try:
            async with asyncio.timeout(timeout_s), self._arrival:
                await self._arrival.wait_for(lambda: predicate(self.received))
        except TimeoutError:
            types = ", ".join(one.type or "?" for one in self.received[-10:])
            raise TimeoutError(f"not within {timeout_s:g} s; {len(self.received)} received, last: {types}") from None
        return list(self.received)

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body, path = await request.read(), request.path
        headers = {name.lower(): value for name, value in request.headers.items()}
        keys = self._keys.get(None, []) + self._keys.get(path, [])
        now = self._clock.now()
        verified = verify(keys, headers, body, now=int(now.timestamp()), tolerance_s=self._tolerance_s)
        reply = self._next_reply(path) or Reply(204 if verified or not keys else 401)
        status = reply.status if reply.kind is ReplyKind.ANSWER else None
        async with self._arrival:
            self.received.append(Received(now, path, headers, body, verified, status))
            self._arrival.notify_all()
        return await self._reply(request, reply)

    def _next_reply(self, path: str) -> Reply | None:
        self._count += 1
        for script in (self._scripts.get(path), self._scripts.get(None)):
            if script:
                return script.popleft()
        if self._every and self._count % self._every[0] == 0:
            return self._every[1]
        return self._always.get(path) or self._always.get(None)

    async def _reply(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        match reply.kind:
            case ReplyKind.HANG:
                await self._let_go.wait()
                return web.Response(status=503)
            case ReplyKind.DROP:
                reset_connection(request)
                return web.Response()
            case ReplyKind.ANSWER:
                return web.Response(status=reply.status, headers=reply.headers, text=reply.body or None)
