"""One simulated life of the daemon: hours with runs, faults and crashes, then calm, then the check."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy.exc import OperationalError

from bridge.config.load import Config, load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SteadyClock
from bridge.domain.errors import BridgeError, StoreUnavailable
from bridge.sandbox.state import RequestSeen
from tests.simulation import checker, file_checker, leaks
from tests.simulation.clients import Clients
from tests.simulation.troubles import CALM_S, PAUSES_S, Troubles
from tests.simulation.virtual_clock import START_S, VirtualClock, seed_random
from tests.simulation.virtual_loop import Process, VirtualLoop, process
from tests.simulation.virtual_machine import Disk, Machine
from tests.simulation.virtual_network import Network
from tests.simulation.world import MIN_INTERVAL_S, TOKEN, Window, World

LISTEN_PORT: Final = 8484
HOURS: Final = 4.0
RETRY_SCHEDULE: Final = ["5s", "20s", "1m", "3m", "5m", *["10m"] * 40]
SHORT_SCHEDULE: Final = ["5s", "20s", "1m"]
RETRY_MAX_S: Final = 600 * 1.2
BACKLOG_S: Final = RETRY_MAX_S + 60
KEEP_S: Final = 900.0
DISK_ERRORS: Final = (sqlite3.OperationalError, OperationalError, OSError)  # a broken constraint is none
STARTS_AGAIN_AFTER_S: Final = 5.0  # what a service manager waits


class Life(World):
    """Everything of one life; `run` lives it. `trace` is what happened, in order.

    `only`: the numbers of the troubles that happen; None: all.
    """

    clock: VirtualClock

    def __init__(
        self,
        clock: VirtualClock,
        seed: int,
        folder: Path,
        *,
        hours: float = HOURS,
        only: frozenset[int] | None = None,
        is_traced: bool = False,
    ) -> None:
        super().__init__(seed)
        self.clock, self.folder, self.hours, self.is_traced = clock, folder, hours, is_traced
        self.crashes = self.starts = 0
        self.kills_at_start = False
        """Whether the daemon is killed soon after a provider is next asked to start a run."""
        self.pauses_s = PAUSES_S
        seed_random(seed)
        self.chance = random.Random(f"life {self.seed}")
        self.loop = VirtualLoop(self.clock, random.Random(f"loop {self.seed}"))
        self.unhandled = self.loop.faults  # type: ignore[assignment]
        self.network = self.loop.network = Network(self.loop)
        self.disk = Disk(self.folder, random.Random(f"disk {self.seed}"), kill=self._die)
        self.machine = Machine(self.loop, self.disk)
        self.machine.take_over()
        self.disk.make()
        self.daemon_process = Process("daemon 0", is_dead=True)
        self.is_up = self._was_killed = False
        self._down_since = self.now_s
        self._unfollowed_s = 0.0
        self.troubles = Troubles(self, only)
        self.clients = Clients(self)
        logging.disable(logging.CRITICAL)
        structlog.configure(processors=[self._keep_line], cache_logger_on_first_use=False)

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{LISTEN_PORT}"

    @property
    def database_file(self) -> Path:
        return self.disk.database

    def find_leaks(self) -> Sequence[str]:
        tasks, ends = self.loop.count_tasks(self.daemon_process), self.network.count_ends(self.daemon_process)
        many = [f"at the end there are {tasks} tasks and {ends} connections"] if tasks > 40 or ends > 40 else []
        return many + leaks.find_leaks(
            self.daemon, self, self.loop, self.network
        )  # of others the daemon has its own ends

    @property
    def storm_s(self) -> float:
        """How long there is trouble."""
        return self.hours * 3600 - CALM_S

    @property
    def calm_at_s(self) -> float:  # type: ignore[override]
        return START_S + self.storm_s

    @property
    def retry_schedule(self) -> list[str]:
        """In every fourth life deliveries are given up soon."""
        return SHORT_SCHEDULE if self.seed % 4 == 0 else RETRY_SCHEDULE

    @property
    def keeps_s(self) -> float | None:
        """How long settled runs are kept; None: for ever. In every third life they are deleted soon."""
        return KEEP_S if self.seed % 3 == 0 else None

    # -- what is seen

    def say(self, what: str, **more: object) -> None:
        line = f"{self.now_s - START_S:10.3f} {what} " + " ".join(f"{k}={v}" for k, v in more.items())
        self.note(line.replace(str(self.folder), "FOLDER"))

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
        """The figures of this life in a line."""
        posts = sum(map(len, self.arrivals.values()))
        return (
            f"{len(self.clients.registrations)} runs, {posts} posts, {self.starts} starts, {self.crashes} crashes, "
            f"{len(self.troubles.planned)} troubles, {self.loop.callbacks} callbacks, trace {self.digest}"
        )

    # -- the daemon

    def _config(self) -> Config:
        lines = [
            f'[server]\nlisten = "127.0.0.1:{LISTEN_PORT}"\napi_token = "{TOKEN}"',
            f'[database]\nurl = "sqlite:///{self.disk.database}"',
            self.settings(max_interval="2m", min_interval=f"{MIN_INTERVAL_S:.0f}s"),
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
        daemon = self.daemon = Daemon(self._config(), SteadyClock(self.machine_clock()), read_config=self._config)
        self._stop_wanted, self._reload_wanted = asyncio.Event(), asyncio.Event()
        try:
            async with daemon.workers:
                try:
                    await daemon.start()
                    self.say("started")
                    self.is_up = True
                    self.windows.append(Window("down", "", self._down_since, self.now_s))
                    daemon.workers.start("reloader", lambda: self._reload_when_wanted(daemon))
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

    async def _reload_when_wanted(self, daemon: Daemon) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            with contextlib.suppress(StoreUnavailable):
                await daemon.reload()
                self.say("reloaded")

    def reload_daemon(self) -> None:
        """SIGHUP: it reads the same configuration again."""
        if not self.daemon_process.is_dead and self.is_up:
            self._reload_wanted.set()

    def _gone(self, me: Process, *, is_killed: bool = False) -> None:
        me.is_dead = True
        self._was_killed = is_killed and (self.is_up or self._was_killed)
        if self.is_up:
            self.is_up, self._down_since = False, self.now_s
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

    def note_request(self, seen: RequestSeen) -> None:
        if self.kills_at_start and seen.method == "POST":
            self.kills_at_start = False
            self.loop.crash_in, self.loop.crash = self.chance.randrange(60), self.kill_daemon

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
        """Set the wall clock, while the daemon runs or after it was killed: after a stop in peace nothing knows of it."""
        while self._unfollowed_s or not (self.is_up or self._was_killed):
            await asyncio.sleep(1)
        self.say("jump", seconds=seconds)
        self._unfollowed_s = seconds
        self.clock.set_wall(seconds)

    # -- the whole

    async def begin(self) -> None:
        """Start the providers, the receivers and the first daemon."""
        await self.surround()
        self.mislead()
        servers = {"providers": self.sandbox, **self.receivers}
        self.ports = {name: int(it.origin.rsplit(":", 1)[1]) for name, it in servers.items()} | {"api": LISTEN_PORT}
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
        self.faults += [*await checker.find_faults(self), *self.find_leaks()]
        await self.stop_daemon()
        self.faults += file_checker.find_faults(self)
        self.say("end")

    def end_trouble(self) -> None:
        """Mend everything that is broken, and start the daemon if it is down."""
        self.say("calm")
        self.disk.is_full, self.disk.fails, self.disk.loses_answer, self.disk.slow_s = False, 0.0, 0.0, 0.0
        self.disk.crash_in, self.loop.crash_in, self.mixes_up, self.forgets, self.kills_at_start = (
            None,
            None,
            0.0,
            0.0,
            False,
        )
        self.sandbox.clear_faults()
        for receiver in self.receivers.values():
            receiver.always(None)
        self.network.weather.clear()
        self.restart()

    def run(self) -> None:
        """Live it."""
        self.loop.run_until_complete(self._live())
