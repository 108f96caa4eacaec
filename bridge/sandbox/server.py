"""The four fake providers on one port.

http://127.0.0.1:PORT/dibby · /retab · /dify · /instabase     base URLs of connections
http://127.0.0.1:PORT/_control                                the methods of `Sandbox` over HTTP, without a key

    POST /_control/runs      add a run with a scenario         POST   /_control/faults   inject a fault
    POST /_control/lives     the scenario of triggered runs    DELETE /_control/faults   clear all faults
    POST /_control/limits    set a rate limit                  GET    /_control/requests requests seen, and counts
    POST /_control/reset     forget everything
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from bridge.domain.clock import Clock, SystemClock
from bridge.domain.timestamps import format_instant
from bridge.sandbox.control import FaultBody, LimitBody, RunBody, TriggeredScenarioBody, read_body, refuse_bad_bodies
from bridge.sandbox.dibby import Dibby
from bridge.sandbox.dify import Dify
from bridge.sandbox.fake_provider import FakeProvider
from bridge.sandbox.http_server import HttpServer, whole_number
from bridge.sandbox.instabase import Instabase
from bridge.sandbox.retab import Retab
from bridge.sandbox.scenarios import Scenario
from bridge.sandbox.state import Fault, Limit, RequestSeen, SandboxState

SANDBOX_KEY: Final = "sandbox-key"
BODY_BYTES_MAX: Final = 64 * 1024 * 1024  # triggers carry whole documents as data URIs
FAKE_PROVIDERS: Final[tuple[type[FakeProvider], ...]] = (Dibby, Retab, Dify, Instabase)


class Sandbox(HttpServer):
    """Fake Dibby, Retab, Dify and Instabase. Runs may be added before or after `start`."""

    def __init__(self, *, clock: Clock | None = None, api_key: str = SANDBOX_KEY, **options: Any) -> None:
        """`options`: as for `SandboxState`."""
        self.state = SandboxState(clock or SystemClock(), api_key, **options)
        self._fakes = {fake.name: fake(self.state) for fake in FAKE_PROVIDERS}

    def application(self) -> web.Application:
        """The fake providers, each below its name, and the control API."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        for name, fake in self._fakes.items():
            app.add_subapp(f"/{name}", fake.application())
        control = web.Application(middlewares=[refuse_bad_bodies])
        control.add_routes(_control_routes(self))
        app.add_subapp("/_control", control)
        return app

    async def stop(self) -> None:
        """End hanging requests and stop listening."""
        self.state.close()
        await super().stop()

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of the providers."""
        return tuple(self._fakes)

    @property
    def requests(self) -> Sequence[RequestSeen]:
        """Requests seen, oldest first (the last 100,000; `state.counts` counts all)."""
        return list(self.state.requests)

    def url(self, provider: str) -> str:
        """The base URL of a connection to this provider."""
        return f"{self.origin}/{self._fake(provider).name}"

    def add_run(self, provider: str, *, scenario: Scenario | None = None, **about: Any) -> str:
        """Add a run that follows `scenario`; returns its id. `about`: as for `FakeProvider.add_run`.

        Raises ValueError for a provider, shape or status word that does not exist.
        """
        return self._fake(provider).add_run(scenario or Scenario(), **about).id

    def set_triggered_scenario(self, provider: str, scenario: Scenario) -> None:
        """Set the scenario of the runs that clients trigger at this provider from now on."""
        self._fake(provider).check_scenario(scenario)
        self.state.triggered_scenarios[provider] = scenario

    def fail(
        self,
        provider: str | None,
        kind: str,
        count: int | None = 1,
        retry_after: str | int | None = None,
        *,
        run_id: str | None = None,
        path_contains: str | None = None,
        path_ends: str | None = None,
    ) -> None:
        """Inject a fault into the next `count` matching requests (None: all of them, until `clear_faults`).

        `kind`: an HTTP status such as `500`, or `garbage`, `html`, `hang`, `reset`. Provider None means any.
        `retry_after` is sent as given: seconds, an HTTP date, or nonsense.
        aiohttp's client repeats a GET by itself when a kept-alive connection breaks, so a single `reset` may stay
        unnoticed there; two do not.
        """
        name = None if provider is None else self._fake(provider).name
        given = None if retry_after is None else str(retry_after)
        self.state.faults.append(Fault(kind, count, name, run_id, path_contains, given, path_ends))

    def clear_faults(self) -> None:
        """Remove all faults and end hanging requests."""
        self.state.clear_faults()

    def limit(
        self, provider: str, per_second: float | None, *, burst: float | None = None, is_announced: bool = True
    ) -> None:
        """Answer 429 beyond `per_second` requests (None removes the limit); `burst` defaults to one second's worth.

        `is_announced` False leaves `Retry-After` out.
        """
        name = self._fake(provider).name
        if per_second is None:
            self.state.limits.pop(name, None)
            return
        size = max(1.0, per_second if burst is None else burst)
        self.state.limits[name] = Limit(per_second, size, is_announced, size, self.state.clock.monotonic())

    def reset(self) -> None:
        """Forget runs, scenarios, faults, limits and requests."""
        self.state.reset()

    def _fake(self, provider: str) -> FakeProvider:
        try:
            return self._fakes[provider]
        except KeyError:
            raise ValueError(f"there is no provider {provider}; there are {', '.join(self._fakes)}") from None


def _control_routes(sandbox: Sandbox) -> list[web.RouteDef]:
    async def add_run(request: web.Request) -> web.Response:
        body = await read_body(request, RunBody)
        given = body.model_dump(exclude={"provider", "id", "life"})
        run_id = sandbox.add_run(body.provider, run_id=body.id, scenario=body.life.to_scenario(), **given)
        return web.json_response({"id": run_id}, status=201)

    async def set_triggered_scenario(request: web.Request) -> web.Response:
        body = await read_body(request, TriggeredScenarioBody)
        sandbox.set_triggered_scenario(body.provider, body.life.to_scenario())
        return web.Response(status=204)

    async def add_fault(request: web.Request) -> web.Response:
        sandbox.fail(**(await read_body(request, FaultBody)).model_dump())
        return web.Response(status=204)

    async def clear_faults(_request: web.Request) -> web.Response:
        sandbox.clear_faults()
        return web.Response(status=204)

    async def set_limit(request: web.Request) -> web.Response:
        sandbox.limit(**(await read_body(request, LimitBody)).model_dump())
        return web.Response(status=204)

    async def list_requests(request: web.Request) -> web.Response:
        """Requests oldest first: `?provider=`, and `?skip=` that many; the counts cover all requests."""
        state, provider = sandbox.state, request.query.get("provider")
        seen = [one for one in state.requests if provider in (None, one.provider)]
        skip = whole_number(request.query.get("skip"), 0) or 0
        return web.json_response(
            {
                "counts": dict(state.counts),
                "in_flight_peak": dict(state.in_flight_peak),
                "data": [_request_body(one) for one in seen[skip:]],
            }
        )

    async def reset(_request: web.Request) -> web.Response:
        sandbox.reset()
        return web.Response(status=204)

    return [
        web.post("/runs", add_run),
        web.post("/lives", set_triggered_scenario),
        web.post("/faults", add_fault),
        web.delete("/faults", clear_faults),
        web.post("/limits", set_limit),
        web.get("/requests", list_requests),
        web.post("/reset", reset),
    ]


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
