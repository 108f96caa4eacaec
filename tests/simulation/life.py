"""One simulated life of the daemon: four hours with runs, faults, crashes, then calm, then the check."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import traceback
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from bridge.config.load import Config, load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SteadyClock
from bridge.domain.run import RunError
from bridge.sandbox.receiver import Receiver, Reply, ReplyKind
from bridge.sandbox.scenarios import Scenario, Step
from bridge.sandbox.server import Sandbox
from tests.simulation.checker import find_faults
from tests.simulation.virtual_clock import START_S, VirtualClock, seed_random
from tests.simulation.virtual_loop import Process, VirtualLoop, process
from tests.simulation.virtual_machine import Disk, Machine
from tests.simulation.virtual_network import CALM, Network, Weather

LISTEN_PORT: Final = 8484
TOKEN: Final = "token-of-the-simulation"
API_KEY: Final = "key-of-the-simulation"
SECRET: Final = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="
HOURS: Final = 4.0
CALM_S: Final = 0.7 * 3600
RETRY_SCHEDULE: Final = ["5s", "20s", "1m", "3m", "5m", *["10m"] * 40]
RETRY_MAX_S: Final = 600 * 1.2
ENDPOINTS: Final = ("orderly", "plain", "finished")
PROVIDERS: Final = ("dibby", "retab", "dify", "instabase")
PROVIDER_FAULTS: Final = ("500", "502", "503", "429", "401", "garbage", "html", "hang", "reset")
RECEIVER_FAULTS: Final = (
    Reply(500), Reply(503, headers={"Retry-After": "40"}), Reply(429, headers={"Retry-After": "25"}), Reply(302),
    Reply(404), Reply(kind=ReplyKind.HANG), Reply(kind=ReplyKind.DROP), Reply(204, delay_s=4.0), Reply(204, delay_s=20.0),
)  # fmt: skip


@dataclass
class Registration:
    """A run that a client registered, and what the API promised about it."""

    connection: str
    provider_run_id: str
    run_id: str | None = None
    accepted_at_s: float | None = None
    answers: int = 0
    is_stopped: bool = False


@dataclass
class Life:
    """Everything of one life; `run` lives it. `trace` is what happened, in order."""

    clock: VirtualClock
    seed: int
    folder: Path
    hours: float = HOURS
    is_traced: bool = False
    chance: random.Random = field(init=False)
    trace: list[str] = field(default_factory=list)
    registrations: list[Registration] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """The promises that were broken; after `run`."""
    arrived_at_s: dict[str, list[float]] = field(default_factory=dict)
    """When each POST arrived on the monotonic clock, by endpoint."""
    unwanted: dict[str, set[int]] = field(default_factory=dict)
    secrets: tuple[str, ...] = (TOKEN, API_KEY, SECRET)
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
        self._digest = hashlib.sha256()
        self._is_calm = False
        logging.disable(logging.CRITICAL)
        structlog.configure(processors=[self._keep_line], cache_logger_on_first_use=False)

    @property
    def storm_s(self) -> float:
        """How long there is trouble."""
        return self.hours * 3600 - CALM_S

    # -- what is seen

    def say(self, what: str, **more: object) -> None:
        """Note what happened."""
        line = f"{self.loop.clock.now_s - START_S:10.3f} {what} " + " ".join(f"{k}={v}" for k, v in more.items())
        self._digest.update(line.encode())
        self.trace.append(line)

    def _keep_line(self, _logger: object, level: str, event: dict[str, Any]) -> dict[str, Any]:
        event["level"] = level
        self.log.append(event)
        if self.is_traced or level in ("error", "warning"):
            self.say("log", **{key: value for key, value in event.items() if key != "exc_info"})
            if event.get("exc_info"):
                self.say("".join(traceback.format_exc())[-3000:])
        raise structlog.DropEvent

    def summary(self) -> str:
        """What it was like, in a line."""
        posts = sum(len(receiver.received) for receiver in self.receivers.values())
        return (
            f"{len(self.registrations)} runs, {posts} posts, {self.starts} starts, {self.crashes} crashes, "
            f"{self.loop.callbacks} callbacks, trace {self.digest}"
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
            f"[delivery]\nretry_schedule = {json.dumps(RETRY_SCHEDULE)}\nallow_http = true",
            *(
                f'[connections.{name}]\nprovider = "{name}"\nbase_url = "{self.sandbox.url(name)}"\n'
                f'api_key = "{API_KEY}"\nmax_interval = "2m"'
                for name in PROVIDERS
            ),
            f'[endpoints.orderly]\nurl = "{url("orderly")}"\nsecret = "{SECRET}"\nordered = true',
            f'[endpoints.plain]\nurl = "{url("plain")}"\nsecret = "{SECRET}"',
            f'[endpoints.finished]\nurl = "{url("finished")}"\nsecret = "{SECRET}"\nevents = ["run.finished"]',
        ]
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
                    await self._stop_wanted.wait()
                finally:
                    await daemon.stop()
        except Exception as error:  # noqa: BLE001 - whatever it is, a service manager starts it again
            self.say("daemon ended", error=repr(error))
            me.is_dead = True
            self.network.kill(me)
            self.loop.call_later(1.0, self.restart_daemon, context=Context())
            return
        self.say("stopped")
        me.is_dead = True
        self.network.kill(me)

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
        self.daemon_process.is_dead = True
        self.network.kill(self.daemon_process)
        self.loop.call_later(0.1 + self.chance.random() * 20, self.restart_daemon, context=Context())

    def restart_daemon(self) -> None:
        """Start it unless it runs."""
        if self.daemon_process.is_dead:
            self.start_daemon()

    def kill_daemon(self) -> None:
        """kill -9 between two callbacks."""
        if not self.daemon_process.is_dead:
            self.disk.keep()
            self._die()

    # -- clients

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request to the daemon."""
        url = f"http://127.0.0.1:{LISTEN_PORT}{path}"
        headers["Authorization"] = f"Bearer {TOKEN}"
        async with self.client.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def ask_until(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request, again until the daemon has answered it."""
        while True:
            try:
                status, answer = await self.ask(method, path, body, **headers)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                await asyncio.sleep(1 + self.chance.random() * 5)
                continue
            if status < 500 and status != 429:
                return status, answer
            await asyncio.sleep(1 + self.chance.random() * 5)

    async def _register_one(self) -> None:
        provider = self.chance.choice(PROVIDERS)
        theirs = self.sandbox.add_run(
            provider, scenario=self._scenario(), late_404_s=self.chance.choice([0, 0, 0, 2.0])
        )
        entry = Registration(provider, theirs)
        self.registrations.append(entry)
        body = {"connection": provider, "provider_run_id": theirs, "metadata": {"number": len(self.registrations)}}
        headers = {"Idempotency-Key": f"key-{theirs}"} if self.chance.random() < 0.5 else {}
        for _ in range(self.chance.choice([1, 1, 2])):
            status, answer = await self.ask_until("POST", "/v1/runs", body, **headers)
            assert status in (200, 201), (status, answer)
            if entry.run_id not in (None, answer["id"]):
                raise AssertionError(f"registered twice with two ids: {entry} {answer}")
            entry.run_id, entry.answers = answer["id"], entry.answers + 1
            entry.accepted_at_s = entry.accepted_at_s or self.loop.clock.now_s
        self.say("registered", run=entry.run_id, theirs=theirs)

    def _scenario(self) -> Scenario:
        chance = self.chance
        duration_s = chance.choice([0.0, 2.0, 20.0, 90.0, 600.0, 1200.0]) * (0.5 + chance.random())
        outcome = chance.choice(["succeeded", "succeeded", "succeeded", "failed"])
        steps = [Step(0, chance.choice(["running", "queued"]))]
        if duration_s > 10:
            steps.append(Step(duration_s * 0.3, "running"))
        return Scenario(
            duration_s=duration_s,
            outcome=outcome,
            steps=tuple(steps),
            output={"number": len(self.registrations), "text": "ü" * chance.choice([1, 10, 3000])},
            error=RunError("it broke", "broken", "step 2"),
        )

    async def _clients(self) -> None:
        while self.loop.clock.now_s < START_S + self.storm_s:
            await asyncio.sleep(self.chance.expovariate(1 / 220))
            for _ in range(self.chance.choice([1, 1, 1, 2, 8])):
                self._tasks.append(asyncio.create_task(self._register_one()))

    # -- trouble

    async def _trouble(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._bad_provider, self._bad_receiver, self._bad_network, self._bad_disk, self._crash, self._jump,
            self._stop_and_start, self._limit, self._crash_in_statement, self._crash,
        ]  # fmt: skip
        while self.loop.clock.now_s < START_S + self.storm_s:
            await asyncio.sleep(self.chance.expovariate(1 / 240))
            self._tasks.append(asyncio.create_task(self.chance.choice(kinds)()))  # type: ignore[arg-type]

    async def _last(self, least_s: float, most_s: float) -> None:
        end = START_S + self.storm_s
        await asyncio.sleep(max(0.0, min(self.chance.uniform(least_s, most_s), end - self.loop.clock.now_s)))

    async def _bad_provider(self) -> None:
        provider, kind = self.chance.choice([*PROVIDERS, None]), self.chance.choice(PROVIDER_FAULTS)
        retry_after = self.chance.choice([None, 7]) if kind in ("429", "503") else None
        self.say("provider", name=provider, kind=kind)
        self.sandbox.fail(provider, kind, None, retry_after)
        await self._last(1, 400)
        self.sandbox.clear_faults()
        self.say("provider well")

    async def _limit(self) -> None:
        provider = self.chance.choice(PROVIDERS)
        self.say("limit", name=provider)
        self.sandbox.limit(provider, self.chance.choice([0.5, 2.0]), is_announced=self.chance.random() < 0.5)
        await self._last(30, 900)
        self.sandbox.limit(provider, None)
        self.say("limit over", name=provider)

    async def _bad_receiver(self) -> None:
        name, reply = self.chance.choice(ENDPOINTS), self.chance.choice(RECEIVER_FAULTS)
        self.say("receiver", name=name, reply=reply.status, kind=reply.kind, delay=reply.delay_s)
        self.receivers[name].always(reply)
        await self._last(1, 900)
        self.receivers[name].always(None)
        self.say("receiver well", name=name)

    async def _bad_network(self) -> None:
        port = self.chance.choice(sorted(self.ports))
        weather = self.chance.choice(
            [Weather(0.3, 2.0), Weather(refused=0.8), Weather(reset=0.2), Weather(lost=0.1), Weather(pieces=1.0)]
        )
        self.say("network", port=port, weather=weather)
        self.network.weather[port] = weather
        await self._last(1, 600)
        self.network.weather[port] = CALM
        self.say("network well", port=port)

    async def _bad_disk(self) -> None:
        is_full = self.chance.random() < 0.5
        self.say("disk", is_full=is_full)
        self.disk.is_full, self.disk.fails = is_full, 0.0 if is_full else self.chance.choice([0.01, 0.2])
        await self._last(1, 120)
        self.disk.is_full, self.disk.fails = False, 0.0
        self.say("disk well")

    async def _crash(self) -> None:
        self.loop.crash_in, self.loop.crash = self.chance.randrange(200), self.kill_daemon

    async def _crash_in_statement(self) -> None:
        self.disk.crash_in = self.chance.randrange(60)

    async def _stop_and_start(self) -> None:
        if not self.daemon_process.is_dead and hasattr(self, "_stop_wanted"):
            self._stop_wanted.set()
            await asyncio.wait([self._serving], timeout=60)
            await asyncio.sleep(self.chance.random() * 30)
            self.disk.keep()
            self.restart_daemon()

    async def _jump(self) -> None:
        seconds = self.chance.choice([-3600.0, -30.0, 30.0, 3600.0, 5 * 86400.0])
        self.say("jump", seconds=seconds)
        self.loop.clock.wall_offset_s += seconds

    # -- the whole

    async def begin(self) -> None:
        """Start the providers, the receivers and the first daemon."""
        self._tasks: list[asyncio.Task[None]] = []
        self.sandbox = await Sandbox(api_key=API_KEY).start()
        self.receivers = {name: await self._receiver(name) for name in ENDPOINTS}
        self.ports = {int(it.origin.rsplit(":", 1)[1]) for it in (self.sandbox, *self.receivers.values())} | {
            LISTEN_PORT
        }
        self.client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        self.start_daemon()

    async def _live(self) -> None:
        await self.begin()
        self._tasks += [asyncio.create_task(self._clients()), asyncio.create_task(self._trouble())]
        await asyncio.sleep(self.storm_s)
        self.end_trouble()
        await asyncio.sleep(CALM_S)
        self.say("end")
        self.faults = await find_faults(self)

    async def _receiver(self, name: str) -> Receiver:
        receiver, at_s = Receiver(SECRET), self.arrived_at_s.setdefault(name, [])

        class Log(list[Any]):
            def append(self, post: Any) -> None:
                at_s.append(clock.now_s)
                super().append(post)

        clock, receiver.received = self.clock, Log()
        return await receiver.start()

    def end_trouble(self) -> None:
        """Mend everything that is broken, and start the daemon if it is down."""
        self.say("calm")
        self.disk.is_full, self.disk.fails, self.disk.crash_in, self.loop.crash_in = False, 0.0, None, None
        self.sandbox.clear_faults()
        for receiver in self.receivers.values():
            receiver.always(None)
        self.network.weather.clear()
        self.restart_daemon()

    def run(self) -> None:
        """Live it."""
        self.loop.run_until_complete(self._live())
