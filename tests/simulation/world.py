"""The interface of a life to its clients and checkers, in virtual or real time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import traceback
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp

from bridge.sandbox.receiver import Received, Receiver
from bridge.sandbox.server import Sandbox
from bridge.sandbox.state import RequestSeen, SandboxRun, SandboxState

if TYPE_CHECKING:
    from tests.simulation.clients import Clients

TOKEN: Final = "token-of-the-simulation"
API_KEY: Final = "key-of-the-simulation"
SECRET: Final = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="
CANARY: Final = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LTEy"
CONFIGURED: Final = ("orderly", "plain", "finished")
RECEIVERS: Final = (*CONFIGURED, "chosen", "switched", "slow", "once")
MIN_INTERVAL_S: Final = 1.0  # between two polls of a run, in virtual time
TWIN: Final = "twin"  # a second connection with the credential of `instabase`
SAME_IDS: Final = ("dify", "instabase", TWIN)  # their runs may have the same id


@dataclass(frozen=True, slots=True)
class Arrival:
    """One POST at a receiver, at a monotonic time."""

    at_s: float
    post: Received


@dataclass(slots=True)
class Window:
    """A time in which something was wrong: `kind` with `name`, from `from_s` until `until_s` (monotonic)."""

    kind: str
    name: str
    from_s: float
    until_s: float = float("inf")


@dataclass
class Registration:
    """A run that a client registered, and what the API promised about it."""

    connection: str
    provider_run_id: str
    number: int
    body: dict[str, Any]
    deadline_s: float | None = None
    """The run expires after so long."""
    may_end: bool = False
    """It may end by itself before that."""
    webhook: str | None = None
    """The path of its own webhook."""
    webhook_id: str = ""
    run_id: str | None = None
    accepted_at_s: float = 0.0
    is_done: bool = False
    """It is not registered again."""
    is_lost: bool = False
    """The provider will forget it."""
    mark: str = ""
    """A word that its output holds, and no other's."""
    removed_after: str | None = None
    """A client stopped watching it; the newest event then."""

    @property
    def provider(self) -> str:
        """What the connection is an account of."""
        return provider_of(self.connection)


def provider_of(connection: str) -> str:
    """The provider of a connection."""
    return "instabase" if connection == TWIN else connection


@dataclass
class Feed:
    """The pull feed as a client that remembers its place reads it."""

    events: list[Any] = field(default_factory=list)
    read_at_s: list[tuple[float, float]] = field(default_factory=list)
    """Of each event: when the last question was asked that did not bring it, and when it came."""
    asked_at_s: float = 0.0
    after: str | None = None
    finished_at_s: dict[str, float] = field(default_factory=dict)
    """By run: when its end was surely not yet recorded."""


class WallClock(Protocol):
    """How the wall clock stood to the monotonic one."""

    settings: list[tuple[float, float]]
    """When it was set (monotonic), and its offset from then on."""
    wall_offset_s: float

    def times_of(self, wall_s: float) -> list[float]:
        """The monotonic times at which the wall clock may have shown this."""


class World:
    """Providers, receivers and clients around one or several daemons; `faults` are the promises that were broken."""

    clock: WallClock
    clients: Clients
    sandbox: Sandbox
    pace = 1.0
    """What the clients do takes this share of its time."""
    hours = 1.0
    slow_per_s, instabase_per_s = 0.2, 2.0
    """The rate limits of the endpoint `slow` and of the provider."""
    has_nodes = False
    """Several daemons: an event that one records while another enables an endpoint may not be owed to it."""
    keeps_s: float | None = None
    """How long settled runs are kept; None: for ever."""
    pauses_s: dict[int, float]
    """The Retry-After that receivers send, by status."""
    retry_schedule: list[str]
    calm_at_s: float
    """When all trouble is over (monotonic)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.pauses_s = {}
        self.trace: list[str] = []
        self.log: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.arrivals: dict[str, list[Arrival]] = {}
        self.requests: list[tuple[float, RequestSeen]] = []
        """What the providers were asked, and when (monotonic)."""
        self.secrets: tuple[str, ...] = (TOKEN, API_KEY, SECRET, CANARY)
        self.windows: list[Window] = []
        self.forgets = 0.15
        """How often a provider does not know a run that it has, though never twice in a row."""
        self.mixes_up = 0.0
        """How often a provider answers with another run."""
        self.ignores_cancels = 0.6
        """How often a provider says that it cancels a run, and lets it go on."""
        self.cancels: set[tuple[str, str]] = set()
        """The runs that a provider was asked to cancel: provider and its id."""
        self.unhandled: list[object] = []
        """What the event loop was told of errors that nothing caught."""
        self.receivers: dict[str, Receiver] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._digest = hashlib.sha256()

    @property
    def now_s(self) -> float:
        """Monotonic time."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The address of the API of a daemon."""
        raise NotImplementedError

    @property
    def database_file(self) -> Path:
        """A SQLite file with what the database holds when no daemon runs."""
        raise NotImplementedError

    def find_leaks(self) -> Sequence[str]:
        """The objects that a daemon holds although nothing is left to do."""
        raise NotImplementedError

    def say(self, what: str, **more: object) -> None:
        """Note what happened."""
        self.note(f"{self.now_s:10.3f} {what} " + " ".join(f"{k}={v}" for k, v in more.items()))

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self._digest.update(line.encode())
        self.trace.append(line)

    @property
    def digest(self) -> str:
        """The same for the same trace."""
        return self._digest.hexdigest()[:16]

    def was(self, from_s: float, until_s: float, *kinds: str, name: str | None = None) -> bool:
        """Whether one of these troubles (of this name) touched this time."""
        return any(
            it.kind in kinds and name in (None, it.name) and it.from_s <= until_s and from_s <= it.until_s
            for it in self.windows
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else; an error in it is a fault."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append("".join(traceback.format_exception(error))[-1500:])

    # -- what is around the daemons

    async def surround(self) -> None:
        """Start the providers and the receivers."""
        self.sandbox = await Sandbox(api_key=API_KEY).start()
        self.sandbox.state.requests = self._noting_requests()
        for name in RECEIVERS:
            await self.start_receiver(name)
        self.client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))

    def _noting_requests(self) -> deque[RequestSeen]:
        world = self

        class Requests(deque[RequestSeen]):
            def append(self, seen: RequestSeen) -> None:
                world.requests.append((world.now_s, seen))
                world.note_request(seen)
                world.say("poll", provider=seen.provider, run=seen.run_id)

        return Requests()

    def note_request(self, seen: RequestSeen) -> None:
        """A provider is asked."""

    def theirs(self, entry: Registration) -> SandboxRun | None:
        """The run at its provider."""
        return self.sandbox.state.get(entry.provider, entry.provider_run_id)

    @property
    def connections(self) -> tuple[str, ...]:
        """The names of the connections."""
        return (*self.sandbox.providers, TWIN)

    def mislead(self) -> None:
        """Let `mixes_up`, `forgets` and `ignores_cancels` take effect, in this process for good."""
        find, cancel, chance = SandboxState.find, SandboxState.cancel, random.Random(f"mix-up {self.seed}")
        forgotten = set[str]()

        def find_another(state: SandboxState, provider: str, run_id: str) -> SandboxRun | None:
            if self.mixes_up and chance.random() < self.mixes_up:
                run_id = chance.choice([each for of, each in state.runs if of == provider] or [run_id])
            if run_id not in forgotten and chance.random() < self.forgets:
                forgotten.add(run_id)
                return None
            forgotten.discard(run_id)
            return find(state, provider, run_id)

        def cancel_perhaps(state: SandboxState, run: SandboxRun, word: str, reason: str) -> bool:
            self.cancels.add((run.provider, run.id))
            if self.ignores_cancels and chance.random() < self.ignores_cancels:
                return not state.snapshot(run).status.is_settled
            return cancel(state, run, word, reason)

        SandboxState.find = find_another  # type: ignore[method-assign]
        SandboxState.cancel = cancel_perhaps  # type: ignore[method-assign]

    async def start_receiver(self, name: str) -> Receiver:
        """A receiver that notes when each POST arrives."""
        receiver, arrivals, world = Receiver(SECRET, CANARY), self.arrivals.setdefault(name, []), self

        class Log(list[Received]):
            def append(self, post: Received) -> None:
                arrivals.append(Arrival(world.now_s, post))
                world.say("post", to=name, id=post.id, status=post.status)

        receiver.received = Log()
        self.receivers[name] = receiver
        return await receiver.start()

    def settings(self, **more: object) -> str:
        """The configuration of a daemon but for its addresses; `more` goes into each connection."""
        named = "".join(f"\n{key} = {json.dumps(value)}" for key, value in more.items())

        def url(name: str) -> str:
            return self.receivers[name].url("/hooks")

        lines = [
            f'[delivery]\nretry_schedule = {json.dumps(self.retry_schedule)}\nallow_http = true\nallow = ["127.0.0.0/8"]',
            *(
                f'[connections.{name}]\nprovider = "{provider}"\nbase_url = "{self.sandbox.url(provider)}"\n'
                f'api_key = "{API_KEY}"{named}'
                + (f"\nrequests_per_second = {self.instabase_per_s}" if provider == "instabase" else "")
                for name, provider in ((name, provider_of(name)) for name in self.connections)
            ),
            f'[endpoints.orderly]\nurl = "{url("orderly")}"\nsecret = "{SECRET}"\nordered = true',
            f'[endpoints.plain]\nurl = "{url("plain")}"\nsecret = "{SECRET}"',
            f'[endpoints.finished]\nurl = "{url("finished")}"\nsecret = "{SECRET}"\nevents = ["run.finished"]',
        ]
        if self.keeps_s is not None:
            lines.append(f'[retention]\nkeep = "{self.keeps_s:.0f}s"')
        return "\n\n".join(lines)

    # -- requests

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request to the daemon."""
        headers["Authorization"] = f"Bearer {TOKEN}"
        async with self.client.request(method, self.url + path, json=body, headers=headers) as response:
            text = await response.text()
            for secret in self.secrets:
                is_shown_once = method == "POST" and secret in (CANARY, self.clients.secret)
                if secret in text and not is_shown_once:
                    self.faults.append(f"a secret in the answer to {method} {path}: {text[:300]}")
            return response.status, json.loads(text) if text and path != "/metrics" else text

    async def ask_again(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request, again until there is an answer."""
        while True:
            try:
                return await self.ask(method, path, body, **headers)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                await self._rest()

    async def ask_until(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request, again until the daemon could serve it."""
        while True:
            status, answer = await self.ask_again(method, path, body, **headers)
            if status < 500 and status != 429 and not (status == 409 and "Idempotency-Key" in str(answer)):
                return status, answer
            await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep((1 + self.clients.chance.random() * 5) * max(self.pace, 0.02))
