"""The control door of the fake providers, under /_control: the sandbox's methods over HTTP, for other processes.

It asks for no key, because everything behind it is made up. Wrong bodies get 400 with every field at fault.

    POST /_control/runs      a run with a given life        POST   /_control/faults   something goes wrong
    POST /_control/lives     what triggered runs live       DELETE /_control/faults   nothing does any more
    POST /_control/limits    a rate limit                   GET    /_control/requests what was asked, and counts
    POST /_control/reset     forget everything
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bridge.domain.run import RunError
from bridge.domain.timestamps import format_instant
from bridge.sandbox.fake_provider import whole_number
from bridge.sandbox.scenarios import Life, Step
from bridge.sandbox.state import RequestSeen

if TYPE_CHECKING:
    from bridge.sandbox.server import Sandbox


class Body(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class StepBody(Body):
    """One step of a life."""

    after_s: float = Field(ge=0)
    status: str
    completed: int | None = None


class ErrorBody(Body):
    """What went wrong."""

    message: str
    code: str | None = None
    step: str | None = None


class LifeBody(Body):
    """A life; what is left out is as in `Life`."""

    duration_s: float | None = Field(default=3.0, ge=0)
    outcome: str = "succeeded"
    steps: list[StepBody] | None = None
    output: Any = None
    error: ErrorBody | str | None = None
    parts: int = Field(default=5, ge=1)

    def to_life(self) -> Life:
        """The life it describes."""
        error = ErrorBody(message=self.error) if isinstance(self.error, str) else self.error
        steps = Life().steps if self.steps is None else tuple(Step(**step.model_dump()) for step in self.steps)
        return Life(
            duration_s=self.duration_s,
            outcome=self.outcome,
            steps=steps,
            output=self.output,
            error=RunError(**error.model_dump()) if error else None,
            parts=self.parts,
        )


class RunBody(Body):
    """A run to make."""

    provider: str
    id: str | None = None
    life: LifeBody = Field(default_factory=LifeBody)
    shape: str | None = None
    workflow_id: str | None = None
    late_404_s: float = Field(default=0, ge=0)
    age_s: float = Field(default=0, ge=0)
    metadata: dict[str, str] | None = None


class LivesBody(Body):
    """What runs live that are triggered at a provider."""

    provider: str
    life: LifeBody


class FaultBody(Body):
    """A fault to come; `count` null means until it is taken back."""

    kind: str
    provider: str | None = None
    run_id: str | None = None
    path_contains: str | None = None
    path_ends: str | None = None
    count: int | None = Field(default=1, ge=1)
    retry_after: str | int | None = None


class LimitBody(Body):
    """A rate limit; `per_second` null lifts it."""

    provider: str
    per_second: float | None = Field(gt=0)
    burst: float | None = Field(default=None, ge=1)
    is_announced: bool = True


AnyBody = TypeVar("AnyBody", bound=Body)


class Control:
    """Handlers over one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def application(self) -> web.Application:
        """Its routes."""
        app = web.Application(middlewares=[refuse_bad_bodies])
        app.router.add_post("/runs", self.add_run)
        app.router.add_post("/lives", self.set_life)
        app.router.add_post("/faults", self.add_fault)
        app.router.add_delete("/faults", self.clear_faults)
        app.router.add_post("/limits", self.set_limit)
        app.router.add_get("/requests", self.list_requests)
        app.router.add_post("/reset", self.reset)
        return app

    async def add_run(self, request: web.Request) -> web.Response:
        """Make a run; answers with its id."""
        body = await read_body(request, RunBody)
        given = body.model_dump(exclude={"provider", "id", "life"})
        run_id = self._sandbox.add_run(body.provider, run_id=body.id, life=body.life.to_life(), **given)
        return web.json_response({"id": run_id}, status=201)

    async def set_life(self, request: web.Request) -> web.Response:
        """What triggered runs live from now on."""
        body = await read_body(request, LivesBody)
        self._sandbox.set_triggered_life(body.provider, body.life.to_life())
        return web.Response(status=204)

    async def add_fault(self, request: web.Request) -> web.Response:
        """Let something go wrong."""
        body = await read_body(request, FaultBody)
        self._sandbox.fail(**body.model_dump())
        return web.Response(status=204)

    async def clear_faults(self, _request: web.Request) -> web.Response:
        """Nothing goes wrong any more."""
        self._sandbox.clear_faults()
        return web.Response(status=204)

    async def set_limit(self, request: web.Request) -> web.Response:
        """Set or lift a rate limit."""
        body = await read_body(request, LimitBody)
        self._sandbox.limit(body.provider, body.per_second, burst=body.burst, is_announced=body.is_announced)
        return web.Response(status=204)

    async def list_requests(self, request: web.Request) -> web.Response:
        """What was asked, oldest first: `?provider=`, and `?skip=` that many; counts are of everything."""
        world, provider = self._sandbox.world, request.query.get("provider")
        seen = [one for one in world.requests if provider in (None, one.provider)]
        skip = whole_number(request.query.get("skip"), 0) or 0
        return web.json_response(
            {
                "counts": dict(world.counts),
                "in_flight_peak": dict(world.in_flight_peak),
                "data": [_request_body(one) for one in seen[skip:]],
            }
        )

    async def reset(self, _request: web.Request) -> web.Response:
        """Forget everything."""
        self._sandbox.reset()
        return web.Response(status=204)


@web.middleware
async def refuse_bad_bodies(request: web.Request, handler: Any) -> web.StreamResponse:
    """400 with what was wrong, for everything that raised ValueError."""
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except ValidationError as wrong:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong.errors()]
        return web.json_response({"error": "; ".join(problems)}, status=400)
    except ValueError as wrong:
        return web.json_response({"error": str(wrong)}, status=400)


async def read_body(request: web.Request, kind: type[AnyBody]) -> AnyBody:
    """The body as `kind`; ValueError (pydantic's own is one) if it is not."""
    return kind.model_validate_json(await request.read())


def _request_body(seen: RequestSeen) -> dict[str, object]:
    return {
        "at": format_instant(seen.at),
        "provider": seen.provider,
        "method": seen.method,
        "path": seen.path,
        "query": seen.query,
        "run_id": seen.run_id,
        "fault": seen.fault,
        "status": seen.status,
    }
