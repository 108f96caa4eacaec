"""The parts that the four fake providers share, and the middleware that every request passes.

The middleware answers in the provider's own error shape, in this order: injected fault, wrong key, rate limit,
handler.
"""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar, Final

from aiohttp import web

from bridge.domain.run import Json, RunStatus
from bridge.sandbox.http_server import Handler, reset_connection
from bridge.sandbox.scenarios import DEFAULT_OUTPUT, Scenario, Vocabulary, provider_steps
from bridge.sandbox.state import Fault, RequestSeen, SandboxRun, SandboxState

PROXY_PAGE: Final = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center></body></html>"
PROXY_TITLES: Final = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}


class FakeProvider(ABC):
    """One fake provider: its words, routes and errors. `shapes` are the generations of bodies that it can send."""

    name: ClassVar[str]
    words: ClassVar[Mapping[RunStatus, str]]
    rare_words: ClassVar[Mapping[str, RunStatus]] = {}
    shapes: ClassVar[Mapping[str, str]] = {"new": "new"}

    def __init__(self, state: SandboxState) -> None:
        self.state = state
        self.vocabulary = Vocabulary(self.name, self.words, self.rare_words)

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""

    @abstractmethod
    def refuse(self, status: int, message: str | None = None) -> web.Response:
        """An error response in the shape of this API."""

    @abstractmethod
    def new_run_id(self) -> str:
        """An id that looks like this provider's."""

    @abstractmethod
    def body(self, run: SandboxRun) -> dict[str, Json]:
        """The run as this API shows it."""

    def find(self, request: web.Request) -> SandboxRun | None:
        """The run that the request is about, if the provider knows it now."""
        return self.state.find(self.name, request.match_info["run_id"])

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One run."""
        run = self.find(request)
        return self.refuse(404) if run is None else self.shown(run)

    def shown(self, run: SandboxRun) -> web.Response:
        """The response that shows a run."""
        return web.json_response(self.body(run))

    def new_workflow_id(self) -> str:
        """A workflow id that looks like this provider's."""
        return self.new_run_id()

    def is_authorized(self, request: web.Request) -> bool:
        """Whether the request carries the key."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(key.encode(), self.state.api_key.encode())

    def add_run(
        self,
        scenario: Scenario,
        *,
        run_id: str | None = None,
        shape: str | None = None,
        workflow_id: str | None = None,
        late_404_s: float = 0.0,
        age_s: float = 0.0,
        inputs: dict[str, Json] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> SandboxRun:
        """Add a run that began `age_s` seconds ago and answers 404 until it is `late_404_s` seconds old.

        `shape`: Retab c, c-nested, b, a · Dify new, old, rfc822. Raises ValueError for a shape or a status word that
        this API lacks.
        """
        wanted = shape or next(iter(self.shapes))
        if wanted not in self.shapes:
            raise ValueError(f"{self.name} has no shape {wanted}; it has {', '.join(self.shapes)}")
        run = SandboxRun(
            id=run_id or self.new_run_id(),
            provider=self.name,
            shape=self.shapes[wanted],
            scenario=scenario,
            steps=provider_steps(scenario, self.vocabulary),
            created_at=self.state.clock.now() - timedelta(seconds=age_s),
            created_s=self.state.clock.monotonic() - age_s,
            workflow_id=workflow_id or self.new_workflow_id(),
            task_id=secrets.token_hex(16),
            late_404_s=late_404_s,
            inputs=inputs or {},
            metadata=metadata or {},
        )
        self.state.add(run)
        return run

    def check_scenario(self, scenario: Scenario) -> None:
        """ValueError if this API has no word for a status in it."""
        provider_steps(scenario, self.vocabulary)

    def start_triggered(
        self, workflow_id: str | None, inputs: dict[str, Json], metadata: dict[str, str] | None = None
    ) -> SandboxRun:
        """Add a run that a client triggered; it follows `state.triggered_scenarios` for this provider."""
        scenario = self.state.triggered_scenarios.get(self.name) or Scenario(output=DEFAULT_OUTPUT)
        return self.add_run(scenario, workflow_id=workflow_id, inputs=inputs, metadata=metadata)

    def application(self) -> web.Application:
        """The routes behind the middleware."""
        app = web.Application(middlewares=[self._handle])
        app.add_routes(self.routes())
        return app

    @web.middleware
    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        state, run_id = self.state, request.match_info.get("run_id")
        seen = RequestSeen(state.clock.now(), self.name, request.method, request.path, request.query_string, run_id)
        state.record_request(seen)
        status: int | None = None
        try:
            fault = state.fault_for(self.name, run_id, request.path)
            seen.fault = fault.kind if fault else None
            answer = await (self._fail(request, fault) if fault else self._respond(request, handler))
            status = None if fault and fault.kind in ("hang", "reset") else answer.status
            return answer
        finally:
            state.record_response(seen, status)

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.is_authorized(request):
            return self.refuse(401)
        if over := self.state.retry_after_s(self.name):
            wait_s, is_announced = over
            return _with_retry_after(self.refuse(429), str(wait_s) if is_announced else None)
        try:
            return self._tagged(request, await handler(request))
        except web.HTTPException as refused:  # no such route, wrong method, body too big
            return self.refuse(refused.status)

    def _tagged(self, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
        """The response about one run with an ETag of its body, or 304 without a body if the client has it."""
        is_about_a_run = request.method == "GET" and "run_id" in request.match_info and answer.status == 200
        if not (self.state.sends_etags and is_about_a_run and isinstance(answer, web.Response)):
            return answer
        etag = f'"{hashlib.sha256((answer.text or "").encode()).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == etag:
            answer = web.Response(status=304)
        answer.headers["ETag"] = etag
        return answer

    async def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "hang":
                await self.state.faults_over.wait()
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


def _with_retry_after(response: web.Response, retry_after: str | None) -> web.Response:
    if retry_after is not None:
        response.headers["Retry-After"] = retry_after
    return response
