"""A webhook receiver: verifies every signature, records what arrived, and answers according to a script.

A receiver process is read and scripted over HTTP; a wrong body is answered 400 with every field at fault.

    GET  /_received   what arrived: `?path=`, and `?skip=` that many
    POST /_script     {"replies": [...], "always": {...}|null, "every": {"nth": 10, "reply": {...}}, "path"}
    POST /_secrets    {"secret": "whsec_…", "path"}
    POST /_reset      forget what arrived and every script
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from aiohttp import web
from pydantic import Field

from bridge.domain.clock import Clock, SystemClock
from bridge.domain.run import Json
from bridge.domain.signing.hmac_v1 import secret_key, verify
from bridge.domain.timestamps import format_instant
from bridge.sandbox.control import Body, read_body, refuse_bad_bodies
from bridge.sandbox.http_server import Handler, HttpServer, reset_connection, whole_number

BODY_BYTES_MAX: Final = 4 * 1024 * 1024


class ReplyKind(StrEnum):
    """How a POST is answered: with a response, never, or by breaking the connection."""

    ANSWER = "answer"
    HANG = "hang"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted response, sent after `delay_s`; `headers` hold `Location`, `Retry-After` and the like."""

    status: int = 204
    kind: ReplyKind = ReplyKind.ANSWER
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """One POST that arrived. Header names are lower-case; `status` is that of the reply, None for hang and drop."""

    at: datetime
    path: str
    headers: dict[str, str]
    body: bytes
    verified: bool
    status: int | None

    @property
    def id(self) -> str:
        """The event id in the headers."""
        return self.headers.get("webhook-id", "")

    @property
    def event(self) -> dict[str, Json]:
        """The body as JSON; empty if it is not an object."""
        try:
            event = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return event if isinstance(event, dict) else {}

    @property
    def type(self) -> str:
        """The event type."""
        return str(self.event.get("type", ""))


class Receiver(HttpServer):
    """Answers 204 to a verified POST and 401 to any other, unless a script says otherwise.

    Secrets and scripts belong to one path, or with path None to all. Without any secret nothing can be verified
    and everything is accepted.
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
        self._hanging_over = asyncio.Event()
        for secret in secrets:
            self.add_secret(secret)

    def application(self) -> web.Application:
        """The control API, and every other path as a receiver."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes([*_control_routes(self), web.post("/{path:.*}", self._receive)])
        return app

    async def stop(self) -> None:
        """End hanging requests and stop listening."""
        self._hanging_over.set()
        await super().stop()

    def url(self, path: str = "/hooks") -> str:
        """An address to send to; every path is accepted."""
        return self.origin + path

    def add_secret(self, secret: str, *, path: str | None = None) -> None:
        """Accept signatures with this `whsec_…` secret; ValueError if it is malformed."""
        self._keys[path].append(secret_key(secret))

    def script(self, *replies: Reply, path: str | None = None) -> None:
        """Answer the next requests with these replies, one each, in order."""
        self._scripts[path].extend(replies)

    def always(self, reply: Reply | None, *, path: str | None = None) -> None:
        """Answer with this reply once the script is used up; None restores the answer by signature."""
        self._always.pop(path, None)
        if reply is not None:
            self._always[path] = reply

    def every(self, nth: int, reply: Reply | None) -> None:
        """Answer every `nth` request with this reply; None stops it."""
        self._every = None if reply is None else (nth, reply)

    def reset(self) -> None:
        """Forget what arrived and every script; secrets stay."""
        self.received.clear()
        self._scripts.clear()
        self._always.clear()
        self._every = None
        self._hanging_over.set()
        self._hanging_over = asyncio.Event()

    async def wait_for(
        self, predicate: Callable[[Sequence[Received]], bool], timeout_s: float = 60.0
    ) -> list[Received]:
        """Everything received, once `predicate` holds for it; TimeoutError that names what arrived."""
        try:
            async with asyncio.timeout(timeout_s), self._arrival:
                await self._arrival.wait_for(lambda: predicate(self.received))
        except TimeoutError:
            types = ", ".join(one.type or "?" for one in self.received[-10:])
            raise TimeoutError(f"not within {timeout_s:g} s; {len(self.received)} received, last: {types}") from None
        return list(self.received)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
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
        return await self._send(request, reply)

    def _next_reply(self, path: str) -> Reply | None:
        self._count += 1
        for script in (self._scripts.get(path), self._scripts.get(None)):
            if script:
                return script.popleft()
        if self._every and self._count % self._every[0] == 0:
            return self._every[1]
        return self._always.get(path) or self._always.get(None)

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        match reply.kind:
            case ReplyKind.HANG:
                await self._hanging_over.wait()
                return web.Response(status=503)
            case ReplyKind.DROP:
                reset_connection(request)
                return web.Response()
            case ReplyKind.ANSWER:
                return web.Response(status=reply.status, headers=reply.headers, text=reply.body or None)


class ReplyBody(Body):
    """One scripted response."""

    status: int = Field(default=204, ge=200, le=599)
    kind: ReplyKind = ReplyKind.ANSWER
    delay_s: float = Field(default=0, ge=0)
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""

    def to_reply(self) -> Reply:
        """The reply it describes."""
        return Reply(**self.model_dump())


class EveryBody(Body):
    """A response to every nth request."""

    nth: int = Field(ge=1)
    reply: ReplyBody


class ScriptBody(Body):
    """The script; an absent key leaves that part as it is."""

    replies: list[ReplyBody] = Field(default_factory=list)
    always: ReplyBody | None = None
    every: EveryBody | None = None
    path: str | None = None


class SecretBody(Body):
    """A secret to accept."""

    secret: str
    path: str | None = None


def _control_routes(receiver: Receiver) -> list[web.RouteDef]:
    async def show(request: web.Request) -> web.Response:
        path, skip = request.query.get("path"), whole_number(request.query.get("skip"), 0) or 0
        wanted = [one for one in receiver.received if path in (None, one.path)]
        return web.json_response({"count": len(wanted), "data": [_received_body(one) for one in wanted[skip:]]})

    async def script(request: web.Request) -> web.Response:
        body = await read_body(request, ScriptBody)
        receiver.script(*(reply.to_reply() for reply in body.replies), path=body.path)
        if "always" in body.model_fields_set:
            receiver.always(body.always.to_reply() if body.always else None, path=body.path)
        if "every" in body.model_fields_set:
            receiver.every(*((body.every.nth, body.every.reply.to_reply()) if body.every else (1, None)))
        return web.Response(status=204)

    async def add_secret(request: web.Request) -> web.Response:
        body = await read_body(request, SecretBody)
        receiver.add_secret(body.secret, path=body.path)
        return web.Response(status=204)

    async def reset(_request: web.Request) -> web.Response:
        receiver.reset()
        return web.Response(status=204)

    return [
        web.get("/_received", show),
        web.post("/_script", _refusing_bad_bodies(script)),
        web.post("/_secrets", _refusing_bad_bodies(add_secret)),
        web.post("/_reset", reset),
    ]


def _refusing_bad_bodies(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        return await refuse_bad_bodies(request, handler)

    return guarded


def _received_body(one: Received) -> dict[str, object]:
    return {
        "at": format_instant(one.at),
        "path": one.path,
        "headers": one.headers,
        "body": one.body.decode("utf-8", "replace"),
        "verified": one.verified,
        "status": one.status,
    }
