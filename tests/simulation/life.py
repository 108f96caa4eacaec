"""One simulated life of the daemon: hours with runs, faults and crashes, then calm, then the check."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import sqlite3
import sys
import traceback
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog
from sqlalchemy.exc import DBAPIError

from bridge.config.load import Config, load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SteadyClock
from bridge.domain.errors import BridgeError
from bridge.sandbox.receiver import Received, Receiver
from bridge.sandbox.server import Sandbox
from bridge.sandbox.state import RequestSeen, SandboxRun, SandboxState
from tests.simulation import checker, file_checker
from tests.simulation.clients import CANARY, Clients
from tests.simulation.troubles import CALM_S, Troubles
from tests.simulation.virtual_clock import START_S, VirtualClock, seed_random
from tests.simulation.virtual_loop import Process, VirtualLoop, process
from tests.simulation.virtual_machine import Disk, Machine
from tests.simulation.virtual_network import Network

LISTEN_PORT: Final = 8484
TOKEN: Final = "token-of-the-simulation"
API_KEY: Final = "key-of-the-simulation"
SECRET: Final = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="
HOURS: Final = 4.0
RETRY_SCHEDULE: Final = ["5s", "20s", "1m", "3m", "5m", *["10m"] * 40]
SHORT_SCHEDULE: Final = ["5s", "20s", "1m"]
RETRY_MAX_S: Final = 600 * 1.2
BACKLOG_S: Final = RETRY_MAX_S + 60
KEEP_S: Final = 2400.0
CONFIGURED: Final = ("orderly", "plain", "finished")
RECEIVERS: Final = (*CONFIGURED, "chosen", "switched", "slow", "once")
INSTABASE_PER_S: Final = 2.0
DISK_ERRORS: Final = (sqlite3.Error, DBAPIError, OSError)
STARTS_AGAIN_AFTER_S: Final = 5.0  # what a service manager waits


@dataclass(frozen=True, slots=True)
class Arrival:
    """One POST at a receiver, at a monotonic time."""

    at_s: float
    post: Received


@dataclass
class Life:
    """Everything of one life; `run` lives it. `trace` is what happened, in order."""

    clock: VirtualClock
    seed: int
    folder: Path
    hours: float = HOURS
    only: frozenset[int] | None = None
    """The numbers of the troubles that happen; None: all."""
    is_traced: bool = False
    trace: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """The promises that were broken; after `run`."""
    arrivals: dict[str, list[Arrival]] = field(default_factory=dict)
    requests: list[tuple[float, RequestSeen]] = field(default_factory=list)
    """What the providers were asked, and when (monotonic)."""
    secrets: tuple[str, ...] = (TOKEN, API_KEY, SECRET, CANARY)
    mixes_up: float = 0.0
    """How often a provider answers with another run."""
    crashes: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        seed_random(self.seed)
        self.chance = random.Random(f"life {self.seed}")
        self.loop = VirtualLoop(self.clock, random.Random(f"loop {self.seed}"))
        self.network = self.loop.network = Network(self.loop)
        self.disk = Disk(self.folder, random.Random(f"disk {self.seed}"), kill=self._die)
        self.machine = Machine(self.loop, self.disk)
        self.machine.take_over()
        self.disk.make()
        self.daemon_process = Process("daemon 0", is_dead=True)
        self.is_up = False
        self._down_since = self.now_s
        self._unfollowed_s = 0.0
        self._digest = hashlib.sha256()
        self.troubles = Troubles(self, self.only)
        self.clients = Clients(self)
        logging.disable(logging.CRITICAL)
        structlog.configure(processors=[self._keep_line], cache_logger_on_first_use=False)

    @property
    def now_s(self) -> float:
        """Monotonic time."""
        return self.clock.now_s

    @property
    def storm_s(self) -> float:
        """How long there is trouble."""
        return self.hours * 3600 - CALM_S

    @property
    def retry_schedule(self) -> list[str]:
        """In every fourth life deliveries are given up soon."""
        return SHORT_SCHEDULE if self.seed % 4 == 0 else RETRY_SCHEDULE

    @property
    def keeps_s(self) -> float | None:
        """How long settled runs are kept; None: for ever. In every third life they are deleted soon."""
        return KEEP_S if self.seed % 3 == 0 else None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else; an error in it is a fault."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append("".join(traceback.format_exception(error))[-1500:])

    # -- what is seen

    def say(self, what: str, **more: object) -> None:
        """Note what happened."""
        line = f"{self.now_s - START_S:10.3f} {what} " + " ".join(f"{k}={v}" for k, v in more.items())
        line = line.replace(str(self.folder), "FOLDER")
        self._digest.update(line.encode())
        self.trace.append(line)

    def _keep_line(self, _logger: object, level: str, event: dict[str, Any]) -> dict[str, Any]:
        event["level"] = level
        self.log.append(event)
        if self.is_traced or level in ("error", "warning"):
            self.say("log", **{key: value for key, value in event.items() if key != "exc_info"})
            if event.get("exc_info"):
                self.trace.append(traceback.format_exc()[-3000:])
        if event.get("event") == "clock.jumped":
            self._unfollowed_s = 0.0
        error = event.get("exc_info")
        error = sys.exception() if error is True else error
        if isinstance(error, BaseException) and not isinstance(error, (BridgeError, *DISK_ERRORS)):
            self.faults.append(f"unforeseen: {event} {''.join(traceback.format_exception(error))[-1500:]}")
        raise structlog.DropEvent

    def summary(self) -> str:
        """What it was like, in a line."""
        posts = sum(map(len, self.arrivals.values()))
        return (
            f"{len(self.clients.registrations)} runs, {posts} posts, {self.starts} starts, {self.crashes} crashes, "
            f"{len(self.troubles.planned)} troubles, {self.loop.callbacks} callbacks, trace {self.digest}"
        )

    @property
    def digest(self) -> str:
        """The same for the same seed."""
        return self._digest.hexdigest()[:16]

    # -- the daemon

    def _config(self) -> Config:
        def url(name: str) -> str:
            return self.receivers[name].url("/hooks")

        lines = [
            f'[server]\nlisten = "127.0.0.1:{LISTEN_PORT}"\napi_token = "{TOKEN}"',
            f'[database]\nurl = "sqlite:///{self.disk.database}"',
            f'[delivery]\nretry_schedule = {json.dumps(self.retry_schedule)}\nallow_http = true\nallow = ["127.0.0.0/8"]',
            *(
                f'[connections.{name}]\nprovider = "{name}"\nbase_url = "{self.sandbox.url(name)}"\n'
                f'api_key = "{API_KEY}"\nmax_interval = "2m"'
                + (f"\nrequests_per_second = {INSTABASE_PER_S}" if name == "instabase" else "")
                for name in self.sandbox.providers
            ),
            f'[endpoints.orderly]\nurl = "{url("orderly")}"\nsecret = "{SECRET}"\nordered = true',
            f'[endpoints.plain]\nurl = "{url("plain")}"\nsecret = "{SECRET}"',
            f'[endpoints.finished]\nurl = "{url("finished")}"\nsecret = "{SECRET}"\nevents = ["run.finished"]',
        ]
        if self.keeps_s is not None:
            lines.append(f'[retention]\nkeep = "{self.keeps_s:.0f}s"')
        path = self.folder / "config.toml"
        path.write_text("\n\n".join(lines))
        path.chmod(0o600)
        return load_config(path, env={}, flags={})

    def start_daemon(self) -> None:
        """Start a daemon on what is on the disk."""
        self.starts += 1
        self.daemon_process = Process(f"daemon {self.starts}")
        context = Context()
        context.run(process.set, self.daemon_process)
        self._serving = self.loop.create_task(self._serve(self.daemon_process), context=context)
        self.say("start", number=self.starts)

    async def _serve(self, me: Process) -> None:
        daemon = Daemon(self._config(), SteadyClock(self.machine_clock()), read_config=self._config)
        self._stop_wanted = asyncio.Event()
        try:
            async with daemon.workers:
                try:
                    await daemon.start()
                    self.say("started")
                    self.is_up = True
                    self.troubles.note("down", self._down_since, self.now_s)
                    await self._stop_wanted.wait()
                finally:
                    await daemon.stop()
        except Exception as error:  # noqa: BLE001 - whatever it is, a service manager starts it again
            self.say("daemon ended", error=repr(error))
            self._gone(me)
            self.loop.call_later(STARTS_AGAIN_AFTER_S, self.restart, context=Context())
            return
        self.say("stopped")
        self._gone(me)

    def _gone(self, me: Process, *, is_killed: bool = False) -> None:
        me.is_dead = True
        if self.is_up:
            self.is_up, self._down_since = False, self.now_s
        self.network.kill(me)
        if self._unfollowed_s and not is_killed:  # after a stop in peace nothing knows of it: this is not tried
            self.clock.set_wall(-self._unfollowed_s)
            self._unfollowed_s = 0.0

    def machine_clock(self) -> Any:
        """The machine's clocks as the daemon reads them."""
        loop, machine = self.loop, self.machine

        class Clock:
            monotonic = staticmethod(loop.time)
            now = staticmethod(machine.now)

        return Clock()

    def _die(self) -> None:
        """The machine has failed: the disk was kept by who calls this."""
        self.crashes += 1
        self.say("crash", number=self.crashes, commits=self.disk.commits)
        self._gone(self.daemon_process, is_killed=True)
        self.loop.call_later(0.1 + self.chance.random() * 20, self.restart, context=Context())

    def restart(self) -> None:
        """Start the daemon, if none runs."""
        if self.daemon_process.is_dead:
            self.start_daemon()

    def kill_daemon(self) -> None:
        """kill -9 between two callbacks."""
        if not self.daemon_process.is_dead:
            self.disk.keep()
            self._die()

    async def stop_daemon(self) -> None:
        """SIGTERM; wait for its end."""
        if not self.daemon_process.is_dead and self.is_up:
            self._stop_wanted.set()
            me, serving = self.daemon_process, self._serving
            await asyncio.wait([serving], timeout=60)
            if serving.done():
                self.disk.keep()
            elif not me.is_dead:  # it may be killed while it stops
                self.faults.append("the daemon did not stop within 60 s")

    async def set_wall(self, seconds: float) -> None:
        """Set the wall clock while the daemon runs."""
        while not self.is_up or self._unfollowed_s:
            await asyncio.sleep(1)
        self.say("jump", seconds=seconds)
        self._unfollowed_s = seconds
        self.clock.set_wall(seconds)

    # -- requests

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request to the daemon."""
        url = f"http://127.0.0.1:{LISTEN_PORT}{path}"
        headers["Authorization"] = f"Bearer {TOKEN}"
        async with self.client.request(method, url, json=body, headers=headers) as response:
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
                await asyncio.sleep(1 + self.clients.chance.random() * 5)

    async def ask_until(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request, again until the daemon could serve it."""
        while True:
            status, answer = await self.ask_again(method, path, body, **headers)
            if status < 500 and status != 429 and not (status == 409 and "Idempotency-Key" in str(answer)):
                return status, answer
            await asyncio.sleep(1 + self.clients.chance.random() * 5)

    # -- the whole

    async def begin(self) -> None:
        """Start the providers, the receivers and the first daemon."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.sandbox = await Sandbox(api_key=API_KEY).start()
        self.sandbox.state.requests = self._noting_requests()
        self._mix_up_runs()
        self.receivers = {name: await self.start_receiver(name) for name in RECEIVERS}
        servers = {"providers": self.sandbox, **self.receivers}
        self.ports = {name: int(it.origin.rsplit(":", 1)[1]) for name, it in servers.items()} | {"api": LISTEN_PORT}
        self.client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        self.start_daemon()

    async def _live(self) -> None:
        await self.begin()
        self.spawn(self.clients.live())
        self.spawn(self.troubles.live())
        await asyncio.sleep(self.storm_s)
        self.end_trouble()
        await self.clients.calm_down()
        await asyncio.sleep(BACKLOG_S)
        self.faults += await checker.find_backlog(self)
        await asyncio.sleep(CALM_S - BACKLOG_S)
        self.faults += await checker.find_faults(self)
        await self.stop_daemon()
        self.faults += file_checker.find_faults(self)
        self.say("end")

    def _noting_requests(self) -> deque[RequestSeen]:
        life = self

        class Requests(deque[RequestSeen]):
            def append(self, seen: RequestSeen) -> None:
                life.requests.append((life.now_s, seen))
                life.say("poll", provider=seen.provider, run=seen.run_id)

        return Requests()

    def _mix_up_runs(self) -> None:
        find, chance = SandboxState.find, random.Random(f"mix-up {self.seed}")

        def find_another(state: SandboxState, provider: str, run_id: str) -> SandboxRun | None:
            if self.mixes_up and chance.random() < self.mixes_up:
                run_id = chance.choice([each for of, each in state.runs if of == provider] or [run_id])
            return find(state, provider, run_id)

        SandboxState.find = find_another  # type: ignore[method-assign]

    async def start_receiver(self, name: str) -> Receiver:
        """A receiver that notes when each POST arrives."""
        receiver, arrivals, life = Receiver(SECRET, CANARY), self.arrivals.setdefault(name, []), self

        class Log(list[Received]):
            def append(self, post: Received) -> None:
                arrivals.append(Arrival(life.now_s, post))
                life.say("post", to=name, id=post.id, status=post.status)

        receiver.received = Log()
        return await receiver.start()

    def end_trouble(self) -> None:
        """Mend everything that is broken, and start the daemon if it is down."""
        self.say("calm")
        self.disk.is_full, self.disk.fails, self.disk.loses_answer = False, 0.0, 0.0
        self.disk.crash_in, self.loop.crash_in, self.mixes_up = None, None, 0.0
        self.sandbox.clear_faults()
        for receiver in self.receivers.values():
            receiver.always(None)
        self.network.weather.clear()
        self.restart()

    def run(self) -> None:
        """Live it."""
        self.loop.run_until_complete(self._live())
