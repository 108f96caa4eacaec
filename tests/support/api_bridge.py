"""The API on a real socket and a real database, with a small real bridge behind it; every answer is held
against the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import aiohttp
import jsonschema_rs

from bridge.api.openapi import build_document
from bridge.api.ports import EffectiveSetting, LimiterReading, LivePoll
from bridge.api.server import build_app, start_server
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.alert import ChannelKind, ChannelTest
from bridge.domain.connection import Connection, KeyCheck
from bridge.domain.endpoint import Endpoint
from bridge.domain.errors import BridgeError
from bridge.domain.failure import LastError
from bridge.domain.finding import Finding
from bridge.domain.observation import Observation
from bridge.domain.run import Json, Progress, Run, RunStatus
from bridge.domain.secret import Secret
from bridge.domain.transition import observe
from bridge.domain.webhook_url import check_target
from bridge.polling.duration_learner import DurationLearner
from bridge.polling.planner import Planner
from bridge.store import nodes, runs
from bridge.store.database import Database
from bridge.store.runs import LeaseOffer, record_decision
from bridge.store.transaction import CommitSignals, Tx
from tests.support.manual_clock import ManualClock

TOKEN = "a-token-for-tests"
NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
BODY_BYTES_MAX = 64 * 1024
NODE = "n"  # signed on, so that a test may claim what is due


def connection(name: str, provider: str = "dify") -> Connection:
    """A connection with a key that must never be shown."""
    return Connection(name, provider, "http://127.0.0.1:9/v1", Secret(f"key-of-{name}-canary"))


@dataclass
class ApiBridge:
    """A bridge that notes what it was asked; `refuses` is raised where a provider would refuse."""

    connections: Mapping[str, Connection] = field(
        default_factory=lambda: {name: connection(name) for name in ("dify-prod", "dify-test")}
    )
    refuses: BridgeError | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    held: dict[str, LivePoll] = field(default_factory=dict)
    last_errors: dict[str, LastError] = field(default_factory=dict)
    last_checks: dict[str, KeyCheck] = field(default_factory=dict)
    lists: dict[str, datetime] = field(default_factory=dict)
    ready: bool = True
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    before_trigger: asyncio.Event | None = None
    trigger_asked: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def check_run_id(self, connection: str, provider_run_id: str) -> str | None:
        """Ids with a slash are never a run's."""
        return "a run id holds no slash" if "/" in provider_run_id else None

    def check_target(self, url: str) -> str:
        """As with an empty `[delivery] allow`."""
        return check_target(url, AddressPolicy(Trust.API)).url

    def live(self, run: Run) -> LivePoll | None:
        """The polls that a test has set."""
        return self.held.get(run.id)

    def recent_polls(self, run: Run) -> list[datetime]:
        """When its polls in memory say it was polled last."""
        held = self.held.get(run.id)
        return [held.last_polled_at] if held and held.last_polled_at else []

    def lease_offer(self, connection: str) -> LeaseOffer | None:
        """None: nothing polls here."""

    def has_work_under_way(self) -> bool:
        """False: nothing polls or delivers here."""
        return False

    async def poll_now(self, run_id: str) -> None:
        """Noted."""
        self.asked.append(("poll_now", run_id))

    def forget(self, run_id: str) -> None:
        """Noted."""
        self.asked.append(("forget", run_id))

    async def trigger(
        self, connection: str, workflow_id: str, inputs: Json, extra: dict[str, Json]
    ) -> tuple[str, str | None]:
        """Noted; a run id that counts."""
        self.asked.append(("trigger", (connection, workflow_id, inputs, extra)))
        self.trigger_asked.set()
        if self.before_trigger is not None:
            await self.before_trigger.wait()
        if self.refuses is not None:
            raise self.refuses
        return f"started-{len(self.asked)}", "task-1"

    async def cancel(self, run: Run) -> None:
        """Noted."""
        self.asked.append(("cancel", run.id))
        if self.refuses is not None:
            raise self.refuses

    async def check_connection(self, name: str) -> KeyCheck:
        """All is well."""
        self.asked.append(("check", name))
        self.last_checks[name] = KeyCheck(is_good=True, detail="the key works", at=datetime.now(UTC), duration_ms=12)
        return self.last_checks[name]

    def last_check(self, name: str) -> KeyCheck | None:
        """The last one of `check_connection`."""
        return self.last_checks.get(name)

    def last_list_at(self, name: str) -> datetime | None:
        """The time that a test has set."""
        return self.lists.get(name)

    def last_error(self, name: str) -> LastError | None:
        """The one that a test has set."""
        return self.last_errors.get(name)

    def remarks(self, name: str) -> list[dict[str, object]]:
        return []

    def connection_state(self, name: str) -> dict[str, Json]:
        """Something to show."""
        return {"in_flight": 0}

    def distribution(self, name: str, workflow_id: str) -> Json:
        """That of a planner that knows two runs of `wf`, of half a minute each."""
        learner = DurationLearner()
        for at in (0.0, 1.0):
            learner.learn("wf", RunStatus.RUNNING, 29.0, 31.0, now=at)
        return Planner(self.connections[name].cadence, learner).distribution(workflow_id)

    def limiter_reading(self, name: str) -> LimiterReading:
        """A connection twice over its capacity."""
        return LimiterReading(10.0, 2.0, 2.0)

    def busiest_workflows(self, name: str, most: int) -> list[dict[str, Json]]:
        """One workflow."""
        return [{"workflow_id": "wf", "median_s": 30.0, "p90_s": 40.0, "polls_per_run": 3.5, "mean_delay_s": None}][
            :most
        ]

    async def wait_settled(self, run_id: str, timeout_s: float) -> None:
        """Until a commit announces a settled run."""
        await _within(self.settled, timeout_s)

    async def feed_grown(self, timeout_s: float) -> None:
        """Until a commit announces events."""
        await _within(self.grown, timeout_s)

    def filter_errors(self, endpoint: Endpoint) -> int:
        """Those that commits announced."""
        return self.failures[endpoint.id, endpoint.filter or ""]

    @property
    def settings(self) -> list[EffectiveSetting]:
        """One of each origin."""
        return [EffectiveSetting("server.api_token", "****", "env:X"), EffectiveSetting("log.level", "info", "default")]

    def findings(self) -> list[Finding]:
        """One of each kind."""
        return [Finding(True, "SQLite", "3.51"), Finding(None, "disk", "low"), Finding(True, "readiness", "in order")]

    def expect_endpoints(self, ids: Iterable[str]) -> None:
        """Noted."""
        self.asked.append(("expect_endpoints", list(ids)))

    async def send_test_alerts(self, names: Sequence[str] | None) -> list[ChannelTest]:
        """One that works and one that does not."""
        self.asked.append(("send_test_alerts", names))
        return [ChannelTest("phone", ChannelKind.NTFY, None), ChannelTest("team", ChannelKind.SLACK, "no answer")]

    def readiness(self) -> dict[str, bool]:
        """One check."""
        return {"database": self.ready}

    def hear(self, signals: CommitSignals) -> None:
        """A listener of the database."""
        self.failures += signals.filter_failures
        if signals.settled_run_ids:
            self.settled.set()
            self.settled = asyncio.Event()
        if signals.events_recorded:
            self.grown.set()
            self.grown = asyncio.Event()


async def _within(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


@dataclass
class Reply:
    """An answer of the API."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        """The JSON."""
        return json.loads(self.content)

    @property
    def fields(self) -> dict[str, str]:
        """The fields at fault and what was said about each."""
        return {problem["field"]: problem["message"] for problem in self.body["errors"]}


@dataclass
class Api:
    """A client of the API under test, and what stands behind it."""

    session: aiohttp.ClientSession
    url: str
    database: Database
    bridge: ApiBridge
    clock: ManualClock

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = TOKEN,
    ) -> Reply:
        """One request; its answer is checked against the OpenAPI document."""
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        async with self.session.request(method, self.url + path, data=data, headers={**sent, **(headers or {})}) as got:
            reply = Reply(got.status, got.headers, await got.read())
        check_conformance(method, path.partition("?")[0], reply)
        return reply

    async def register(self, provider_run_id: str = "r-1", **more: object) -> dict[str, Any]:
        """A watched run."""
        reply = await self.call(
            "POST", "/v1/runs", {"connection": "dify-prod", "provider_run_id": provider_run_id, **more}
        )
        assert reply.status in (200, 201), reply.body
        run: dict[str, Any] = reply.body
        return run

    async def create_endpoint(self, **more: object) -> dict[str, Any]:
        """A subscriber."""
        reply = await self.call("POST", "/v1/endpoints", {"url": "https://app.example.org/hooks", **more})
        assert reply.status == 201, reply.body
        endpoint: dict[str, Any] = reply.body
        return endpoint

    async def see(self, run_id: str, status: RunStatus, **more: object) -> None:
        """Record that a poll saw the run so, as the poller does."""
        seen = replace(Observation(status, status.value), **more)  # type: ignore[arg-type]

        def work(tx: Tx) -> None:
            run = runs.get_run(tx, run_id)
            assert run is not None
            decision = observe(run, seen, now=tx.now, wants_progress=True)
            assert decision is not None
            assert record_decision(tx, run, decision, node=None, keep_lease=False) is not None

        await self.database.write(work)

    async def finish(self, run_id: str) -> None:
        """The whole life of a run that succeeds."""
        await self.see(run_id, RunStatus.RUNNING, progress=Progress(1, 3))
        await self.see(run_id, RunStatus.SUCCEEDED, output={"result": "fine"})


@asynccontextmanager
async def serve_api(database_url: str) -> AsyncIterator[Api]:
    """The API on a fresh database, on a free port."""
    clock, bridge = ManualClock(NOW), ApiBridge()
    database = Database(database_url, clock)
    await database.open()
    await database.write(lambda tx: nodes.join(tx, node=NODE, host="here", pid=1, version="0"))
    database.listeners.append(bridge.hear)
    app = build_app(
        database=database,
        clock=clock,
        bridge=bridge,
        api_token=Secret(TOKEN),
        allowed_hosts=frozenset({"127.0.0.1", "localhost"}),
        body_bytes_max=BODY_BYTES_MAX,
        version="1.2.3",
    )
    runner, address = await start_server(app, "127.0.0.1:0")
    try:
        async with aiohttp.ClientSession() as session:
            yield Api(session, f"http://{address}", database, bridge, clock)
    finally:
        await runner.cleanup()
        await database.close()


def _closed(schema: Any) -> Any:
    """The schema with no room for what it does not name."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        return {**closed, "additionalProperties": False} if "properties" in schema else closed
    return [_closed(item) for item in schema] if isinstance(schema, list) else schema


DOCUMENT = build_document("1.2.3")
_SCHEMAS = _closed(DOCUMENT["components"]["schemas"])
_PATHS = sorted(DOCUMENT["paths"], key=lambda path: path.count("{"))


@cache
def _operation(path: str, method: str) -> dict[str, Any] | None:
    """The operation of this call in the document; None if it has none."""
    template = next((p for p in _PATHS if re.fullmatch(re.sub(r"{\w+}", "[^/]+", p), path)), None)
    return DOCUMENT["paths"].get(template, {}).get(method)


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), "components": {"schemas": _SCHEMAS}})


def check_conformance(method: str, path: str, reply: Reply) -> None:
    """The document names this status and content type, and its schema fits the body."""
    operation = _operation(path, method.lower())
    if operation is None:
        return
    response = operation["responses"].get("default" if reply.status == 500 else str(reply.status))
    assert response is not None, f"{method} {path} answered {reply.status}, which the document does not name"
    content = response.get("content", {})
    if not content:
        assert reply.content == b""
        return
    kind = reply.headers["Content-Type"].partition(";")[0]
    assert kind in content, f"{method} {path} answered {kind}"
    if "schema" in content[kind]:
        _validator(json.dumps(content[kind]["schema"])).validate(reply.body)
