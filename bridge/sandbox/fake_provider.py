"""How a fake provider talks: what the four have in common, and the door every request comes through.

The door answers in the provider's own error shape, in this order: injected fault, wrong key, rate limit, handler.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.scenarios import DEFAULT_OUTPUT, Life, Words, beats_of
from bridge.sandbox.state import Fault, RequestSeen, SandboxRun, World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PROXY_PAGE: Final = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center></body></html>"
PROXY_TITLES: Final = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close sends RST instead of FIN


class Dialect(ABC):
    """One fake provider: its words, its routes, its errors. `shapes` are the body generations it can speak."""

    name: ClassVar[str]
    spoken: ClassVar[Mapping[RunStatus, str]]
    understood: ClassVar[Mapping[str, RunStatus]] = {}
    shapes: ClassVar[Mapping[str, str]] = {"new": "new"}

    def __init__(self, world: World) -> None:
        self.world = world
        self.words = Words(self.name, self.spoken, self.understood)

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of everything it answers."""

    @abstractmethod
    def refuse(self, status: int, message: str | None = None) -> web.Response:
        """An error in the shape this API gives them."""

    @abstractmethod
    def new_run_id(self) -> str:
        """An id that looks like this provider's."""

    def new_workflow_id(self) -> str:
        """A workflow id that looks like this provider's."""
        return self.new_run_id()

    def is_authorized(self, request: web.Request) -> bool:
        """Whether the request carries the key."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(key.encode(), self.world.api_key.encode())

    def add_run(
        self,
        life: Life,
        *,
        run_id: str | None = None,
        shape: str | None = None,
        workflow_id: str | None = None,
        late_404_s: float = 0.0,
        age_s: float = 0.0,
        inputs: dict[str, Json] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> SandboxRun:
        """A run that began `age_s` seconds ago; ValueError for a shape or a word that this API has not."""
        wanted = shape or next(iter(self.shapes))
        if wanted not in self.shapes:
            raise ValueError(f"{self.name} has no shape {wanted}; it has {', '.join(self.shapes)}")
        run = SandboxRun(
            id=run_id or self.new_run_id(),
            provider=self.name,
            shape=self.shapes[wanted],
            life=life,
            beats=beats_of(life, self.words),
            born_at=self.world.clock.now() - timedelta(seconds=age_s),
            born_s=self.world.clock.monotonic() - age_s,
            workflow_id=workflow_id or self.new_workflow_id(),
            task_id=secrets.token_hex(16),
            late_404_s=late_404_s,
            inputs=inputs or {},
            metadata=metadata or {},
        )
        self.world.keep(run)
        return run

    def check_life(self, life: Life) -> None:
        """ValueError if this API has no word for something in it."""
        beats_of(life, self.words)

    def start_triggered(
        self, workflow_id: str | None, inputs: dict[str, Json], metadata: dict[str, str] | None = None
    ) -> SandboxRun:
        """A run that a client asked for; lives what `world.lives` says for this provider."""
        life = self.world.lives.get(self.name) or Life(output=DEFAULT_OUTPUT)
        return self.add_run(life, workflow_id=workflow_id, inputs=inputs, metadata=metadata)

    def application(self) -> web.Application:
        """Its routes behind the door."""
        app = web.Application(middlewares=[self._door])
        app.add_routes(self.routes())
        return app

    @web.middleware
    async def _door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        world, run_id = self.world, request.match_info.get("run_id")
        seen = RequestSeen(world.clock.now(), self.name, request.method, request.path, request.query_string, run_id)
        world.arrived(seen)
        status: int | None = None
        try:
            fault = world.fault_for(self.name, run_id, request.path)
            seen.fault = fault.kind if fault else None
            answer = await (self._answer_faulty(request, fault) if fault else self._answer(request, handler))
            status = None if fault and fault.kind in ("hang", "reset") else answer.status
            return answer
        finally:
            world.answered(seen, status)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.is_authorized(request):
            return self.refuse(401)
        if over := self.world.retry_after_s(self.name):
            wait_s, is_announced = over
            return _with_retry_after(self.refuse(429), str(wait_s) if is_announced else None)
        try:
            return self._tagged(request, await handler(request))
        except web.HTTPException as refused:  # no such route, wrong method, body too big
            return self.refuse(refused.status)

    def _tagged(self, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
        """The answer about one run with an ETag of its body, or 304 without a body if the client has it."""
        is_about_a_run = request.method == "GET" and "run_id" in request.match_info and answer.status == 200
        if not (self.world.sends_etags and is_about_a_run and isinstance(answer, web.Response)):
            return answer
        etag = f'"{hashlib.sha256((answer.text or "").encode()).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == etag:
            answer = web.Response(status=304)
        answer.headers["ETag"] = etag
        return answer

    async def _answer_faulty(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "hang":
                await self.world.faults_over.wait()
                return self.refuse(503)
            case "reset":
                reset_connection(request)
                return web.Response()
            case "garbage":
                return web.Response(text='{"id": "run_1", "status": "RUNN', content_type="application/json")
            case "html":
                return web.Response(text=PROXY_PAGE.format("Just a moment"), content_type="text/html")
            case kind if int(kind) in PROXY_TITLES:
                page = PROXY_PAGE.format(PROXY_TITLES[int(kind)])
                response = web.Response(status=int(kind), text=page, content_type="text/html")
                return _with_retry_after(response, fault.retry_after)
            case kind:
                return _with_retry_after(self.refuse(int(kind)), fault.retry_after)


async def json_object(request: web.Request) -> dict[str, Json] | None:
    """The request's body if it is a JSON object, else None."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def object_or_empty(value: Json) -> dict[str, Json]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def whole_number(text: str | None, default: int) -> int | None:
    """A query parameter as a whole number; None if it is something else."""
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _with_retry_after(response: web.Response, retry_after: str | None) -> web.Response:
    if retry_after is not None:
        response.headers["Retry-After"] = retry_after
    return response


def reset_connection(request: web.Request) -> None:
    """Break the connection with RST, answering nothing."""
    if request.transport is None:
        return
    connection: socket.socket = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    request.transport.abort()
