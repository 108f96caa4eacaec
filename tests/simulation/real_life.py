"""A life in real time: daemons as processes with a real database, killed or cut off again and again, then judged.

The clients and checkers are those of lives in virtual time. What they do takes a small share of its time, and what went
wrong is noted as there, so that the same excuses hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bridge.domain.encryption import new_key
from tests.simulation import checker, file_checker
from tests.simulation.clients import Clients
from tests.simulation.kill_points import CALLS, OF_SQLITE, OF_TRIGGERS, ONCE, TORN, WHEN_STOPPING
from tests.simulation.nursery import Nursery
from tests.simulation.world import TOKEN, Window, World
from tests.support.ports import free_port
from tests.support.waiting import until

PACE: Final = 1 / 200
PATIENCE_S: Final = 300.0  # the machine may be busy; nothing asserts how long anything takes
REACHED_WITHIN_S: Final = 60.0
ARRIVES_S: Final = 15.0  # what a daemon sent before it was killed is seen so late, where the machine is busy
RETRIES: Final = ["1s", "1s", *["2s"] * 98]
CRASHES: Final = ("worker.failed", "poll.crashed", "delivery.crashed", "chore.failed", "request.failed")
SUSPENDED_S: Final = 0.5
FOLLOWED_S: Final = 5.0  # a daemon follows the wall clock so much later
DESCRIPTORS_MAX: Final = 60  # a daemon that has just started has some 22


class RealClock:
    """The machine's clocks. The wall clock is set where a machine was suspended, during which monotonic time stands still."""

    wall_offset_s = 0.0

    def __init__(self) -> None:
        self.settings = [(0.0, time.time() - time.monotonic())]
        """When the wall clock was seen to be set, and how far it is ahead of the monotonic one from then on."""

    def look(self) -> float:
        """The monotonic time; notices whether the wall clock was set."""
        now_s = time.monotonic()
        ahead_s = time.time() - now_s
        if abs(ahead_s - self.settings[-1][1]) > SUSPENDED_S:
            self.settings.append((now_s, ahead_s))
        return now_s

    def times_of(self, wall_s: float) -> list[float]:
        """The monotonic times at which the wall clock, or a daemon that followed it, may have shown this."""
        return [
            wall_s - ahead_s
            for (from_s, ahead_s), (until_s, _) in pairwise([*self.settings, (self.look(), 0.0)])
            if from_s - FOLLOWED_S <= wall_s - ahead_s <= until_s + FOLLOWED_S or len(self.settings) == 1
        ]


@dataclass
class Node:
    """One daemon, over all of its starts."""

    number: int
    folder: Path
    port: int
    database_url: str
    pid: int | None = None
    starts: int = 0
    is_up: bool = False

    @property
    def url(self) -> str:
        """The address of its API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """The file of its log."""
        return self.folder / "daemon.log"


@dataclass
class RealLife(World):
    """`folder` is for everything that is written; without `database_urls` there is one daemon, on SQLite."""

    seed: int
    folder: Path
    nursery: Nursery
    database_urls: Sequence[str] = ()
    kills: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    """How often a daemon died at each named point."""
    torn: int = 0
    """How often the log was cut off in the middle of a commit."""

    def __post_init__(self) -> None:
        super().__init__(self.seed)
        self.clock = self.real_clock = RealClock()
        self.pace = PACE
        self.pauses_s = {503: 2.0, 429: 2.0}
        self.retry_schedule = RETRIES
        self.slow_per_s, self.instabase_per_s = 20.0, 50.0
        self.calm_at_s = float("inf")
        self.chance = random.Random(f"real life {self.seed}")
        self.clients = Clients(self)
        self._generation = 0
        self.waits_for: list[str] = []
        self.key = new_key()
        self.nodes = [self._node(number, url) for number, url in enumerate(self.database_urls or [self._sqlite_url()])]

    def _node(self, number: int, url: str) -> Node:
        folder = self.folder / f"node-{number}"
        folder.mkdir()
        return Node(number, folder, free_port(), url)

    # -- what the clients and checkers need

    @property
    def now_s(self) -> float:
        return self.real_clock.look()

    @property
    def url(self) -> str:
        return self.chance.choice([node for node in self.nodes if node.is_up] or self.nodes).url

    @property
    def database_file(self) -> Path:
        return self.folder / "db" / str(self._generation) / "runbridge.db"

    def _sqlite_url(self) -> str:
        self.database_file.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{self.database_file}"

    def find_leaks(self) -> Sequence[str]:
        return [
            f"at the end node {node.number} holds {len(held)} descriptors: {Counter(held).most_common(8)}"
            for node in self.nodes
            if len(held := self._descriptors(node)) > DESCRIPTORS_MAX
        ]

    @staticmethod
    def _descriptors(node: Node) -> list[str]:
        """The file of each, or the port at either end and the state (hexadecimal, 01: established) of a connection."""
        folder = Path(f"/proc/{node.pid}")
        lines = [line.split() for line in (folder / "net/tcp").read_text().splitlines()[1:]]
        ends = {f"socket:[{line[9]}]": (line[1][-4:], line[2][-4:], line[3]) for line in lines}
        held = []
        for each in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed by now
                name = str(each.readlink())
                here, there, state = ends.get(name, ("0", "0", ""))
                ports = sorted(port for port in (int(here, 16), int(there, 16)) if port)
                held.append(f"{'–'.join(map(str, ports[:1]))} {state}" if state else name.partition(":[")[0])
        return held

    # -- daemons

    async def start(self, node: Node, point: str = "", passes: int = 1) -> None:
        """Start a daemon, which is to die at this point."""
        config = node.folder / "config.toml"
        config.touch(0o600)
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:{node.port}"\napi_token = "{TOKEN}"\n[log]\nformat = "json"\n'
            f'[database]\nurl = "{node.database_url}"\n'
            + ('lease = "5s"\n' if self.database_urls else "")
            + (f'[secrets]\nkey = "{self.key}"\n' if self.database_urls else "")
            + self.settings(min_interval="100ms", max_interval="1s", max_in_flight=8)
        )
        node.starts += 1
        node.pid = await self.nursery.fork(
            config, node.log, point=point, passes=passes, folder=self.database_file.parent
        )
        self.say("start", node=node.number, point=point or "any moment", passes=passes)

    async def until_up(self, node: Node) -> None:
        """Wait until it answers, or has ended."""
        assert node.pid is not None
        ended = self.nursery.ended(node.pid)

        async def answers() -> bool:
            try:
                async with self.client.get(f"{node.url}/healthz") as answer:
                    return answer.status == 200
            except OSError:
                return ended.done()

        await until(answers, timeout_s=PATIENCE_S, what="a start")
        node.is_up = not ended.done()

    async def end(self, node: Node, number: int) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert node.pid is not None
        if not self.nursery.ended(node.pid).done():
            os.kill(node.pid, number)
        return await self.has_ended(node)

    async def has_ended(self, node: Node) -> int:
        """Wait for the end; the exit code."""
        assert node.pid is not None
        async with asyncio.timeout(PATIENCE_S):
            code = await self.nursery.ended(node.pid)
        node.is_up = False
        self.say("ended", node=node.number, code=code)
        return code

    # -- one kill after the other

    async def kill_again_and_again(self, points: Sequence[str]) -> None:
        """A daemon for each of these points; "" is any moment."""
        node = self.nodes[0]
        for point in points:
            window = Window("down", "", self.now_s - 1)
            self.windows.append(window)
            is_named = bool(point)
            is_often = is_named and point not in ONCE
            passes = [2, 5, 9] if point == "in a commit" else [1, 1, 2, 5] if is_often else [1]
            await self.start(node, point, self.chance.choice(passes))
            try:
                if is_named:
                    await self._die_there(node, point)
                else:
                    await self._die_somewhere(node)
            finally:
                window.until_s = self.now_s + ARRIVES_S
            self.kills += 1
            if not self.database_urls:
                self._keep_files()

    async def _die_somewhere(self, node: Node) -> None:
        assert node.pid is not None
        if self.chance.random() < 0.8:
            await self.until_up(node)
        await asyncio.sleep(self.chance.random() * 0.5)
        self._is_killed(await self.end(node, signal.SIGKILL), "any moment")

    async def _die_there(self, node: Node, point: str) -> None:
        assert node.pid is not None
        await self.until_up(node)
        if point in OF_TRIGGERS:
            self.spawn(self.clients.trigger())
        if point in WHEN_STOPPING and node.is_up:
            await asyncio.sleep(self.chance.random() * 0.3)
            os.kill(node.pid, signal.SIGTERM)
        await asyncio.wait([self.nursery.ended(node.pid)], timeout=REACHED_WITHIN_S)
        is_reached = self.nursery.ended(node.pid).done()
        self._is_killed(await self.end(node, signal.SIGKILL), point)
        if is_reached:
            self.reached[point] = self.reached.get(point, 0) + 1

    def _is_killed(self, code: int, point: str) -> None:
        if code != -signal.SIGKILL:
            said = self.nodes[0].log.read_text()[-1000:]
            raise AssertionError(f"a daemon that was to die at {point} ended with {code}: {said}")

    def _keep_files(self) -> None:
        """Copy the database into a new folder, where a new daemon opens it; its log is perhaps cut off."""
        old = self.database_file.parent
        torn_from = json.loads((old / TORN).read_text()) if (old / TORN).exists() else None
        self._generation += 1
        self.nodes[0].database_url = self._sqlite_url()
        for name in ("runbridge.db", "runbridge.db-wal", "secrets.key"):
            if (old / name).exists():
                shutil.copy2(old / name, self.database_file.parent / name)
        wal = self.database_file.parent / "runbridge.db-wal"
        if torn_from is not None and wal.stat().st_size > torn_from:
            os.truncate(wal, self.chance.randrange(torn_from, wal.stat().st_size))
            self.torn += 1
        shutil.rmtree(old)

    # -- the whole

    async def begin(self) -> None:
        """Start what is around the daemons, and the clients, who wait for the first of them."""
        await self.surround()
        self.spawn(self.clients.live())

    async def calm_down(self) -> None:
        """Start what is down, let everything end that was begun, and judge."""
        for node in self.nodes:
            if not node.is_up:
                await self.start(node)
                await self.until_up(node)
        for receiver in self.receivers.values():
            receiver.always(None)
        self.sandbox.clear_faults()
        self.calm_at_s = self.now_s
        self.say("calm")
        await self.clients.calm_down()
        try:
            await until(self._is_over, timeout_s=PATIENCE_S)
        except AssertionError:
            self.faults.append(f"after {PATIENCE_S:.0f} s in calm there is still {self.waits_for[:3]}")
            return
        if self.seed % 4 == 1:  # connections that nothing uses are closed after some time
            try:
                await until(lambda: not self.find_leaks(), timeout_s=PATIENCE_S)
            except AssertionError:
                self.faults += self.find_leaks()
        self.faults += await checker.find_faults(self)
        for node in self.nodes:
            code = await self.end(node, signal.SIGTERM)
            if code != 0:
                self.faults.append(f"exit code {code} after SIGTERM")
        await self.copy_database()
        self.faults += file_checker.find_faults(self)
        self._read_logs()

    async def _is_over(self) -> bool:
        """Whether every client has its answer, every run has ended, and nothing waits."""
        self.waits_for = [repr(task) for task in self._tasks if len(self._tasks) > 1]  # the reader of the feed stays
        for replay in self.clients.replays:
            _, answer = await self.ask_until("GET", f"/v1/replays/{replay}")
            self.waits_for += [str(answer)] * (answer.get("state") == "running")
        for path in (
            "/v1/deliveries?state=pending&limit=1",
            *(f"/v1/runs?status={status}&limit=1" for status in ("queued", "running", "waiting", "unknown")),
        ):
            _, page = await self.ask_until("GET", path)
            self.waits_for += map(str, page["data"])
        return not self.waits_for

    async def copy_database(self) -> None:
        """Copy what a server holds into the file that is checked; SQLite is that file."""

    def _read_logs(self) -> None:
        for node in self.nodes:
            text = node.log.read_text(errors="replace")
            self.faults += [f"a secret in the log of node {node.number}" for each in self.secrets if each in text]
            for line in text.splitlines():
                try:
                    said: Any = json.loads(line)
                except ValueError:
                    said = {}
                if said.get("event") in CRASHES or (not said and "Traceback" in line):
                    self.faults.append(f"unforeseen at node {node.number}: {line[:1500]}")

    async def end_all(self) -> None:
        """Stop what is around the daemons."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        for server in (self.sandbox, *self.receivers.values()):
            await server.stop()


def points_of(kills: int, chance: random.Random) -> list[str]:
    """Two of three kills at named points, each point as often; the others at any moment; in any order."""
    named = [*CALLS, *OF_SQLITE, *OF_SQLITE, "in a commit", *WHEN_STOPPING]
    chosen = ["" if number % 3 == 2 else named[(number - number // 3) % len(named)] for number in range(kills)]
    chance.shuffle(chosen)
    return chosen


async def live(seed: int, folder: Path, nursery: Nursery, points: Sequence[str]) -> RealLife:
    """One life on SQLite with a kill at each of these points."""
    life = RealLife(seed, folder, nursery)
    await life.begin()
    try:
        await life.kill_again_and_again(points)
        await life.calm_down()
    finally:
        await life.end_all()
    return life
