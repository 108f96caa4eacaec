"""Request bodies of the fake providers' control API, and what it shares with the receiver's.

A wrong body is answered 400 with every field at fault.
"""

from __future__ import annotations

from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bridge.domain.run import RunError
from bridge.sandbox.scenarios import Scenario, Step


class Body(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class StepBody(Body):
    """One step of a scenario."""

    after_s: float = Field(ge=0)
    status: str
    completed: int | None = None


class ErrorBody(Body):
    """The error of a run that ends without success."""

    message: str
    code: str | None = None
    step: str | None = None


class ScenarioBody(Body):
    """A scenario; absent fields have the defaults of `Scenario`."""

    duration_s: float | None = Field(default=3.0, ge=0)
    outcome: str = "succeeded"
    steps: list[StepBody] | None = None
    output: Any = None
    error: ErrorBody | str | None = None
    parts: int = Field(default=5, ge=1)

    def to_scenario(self) -> Scenario:
        """The scenario it describes."""
        error = ErrorBody(message=self.error) if isinstance(self.error, str) else self.error
        steps = Scenario().steps if self.steps is None else tuple(Step(**step.model_dump()) for step in self.steps)
        return Scenario(
            duration_s=self.duration_s,
            outcome=self.outcome,
            steps=steps,
            output=self.output,
            error=RunError(**error.model_dump()) if error else None,
            parts=self.parts,
        )


class RunBody(Body):
    """A run to add."""

    provider: str
    id: str | None = None
    life: ScenarioBody = Field(default_factory=ScenarioBody)
    shape: str | None = None
    workflow_id: str | None = None
    late_404_s: float = Field(default=0, ge=0)
    age_s: float = Field(default=0, ge=0)
    metadata: dict[str, str] | None = None


class TriggeredScenarioBody(Body):
    """The scenario of runs that clients trigger at a provider."""

    provider: str
    life: ScenarioBody


class FaultBody(Body):
    """A fault to inject; `count` null means until faults are cleared."""

    kind: str
    provider: str | None = None
    run_id: str | None = None
    path_contains: str | None = None
    path_ends: str | None = None
    count: int | None = Field(default=1, ge=1)
    retry_after: str | int | None = None


class LimitBody(Body):
    """A rate limit; `per_second` null removes it."""

    provider: str
    per_second: float | None = Field(gt=0)
    burst: float | None = Field(default=None, ge=1)
    is_announced: bool = True


AnyBody = TypeVar("AnyBody", bound=Body)


@web.middleware
async def refuse_bad_bodies(request: web.Request, handler: Any) -> web.StreamResponse:
    """400 with the reason for every ValueError."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except ValidationError as wrong:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong.errors()]
        return web.json_response({"error": "; ".join(problems)}, status=400)
    except ValueError as wrong:
        return web.json_response({"error": str(wrong)}, status=400)


async def read_body(request: web.Request, kind: type[AnyBody]) -> AnyBody:
    """The body as `kind`; ValueError (pydantic's own is one) if it is not."""
    return kind.model_validate_json(await request.read())
