"""The troubles of a life: providers, receivers, the network, the disk, the clock, and the daemon's process.

Everything is planned at the beginning, and each trouble has its own random numbers: a life without some of them is
otherwise the same as far as it can be, which is how a trace is made smaller.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from bridge.sandbox.receiver import Reply, ReplyKind
from tests.simulation.virtual_clock import START_S
from tests.simulation.virtual_network import CALM, Weather
from tests.simulation.world import Window, provider_of

if TYPE_CHECKING:
    from tests.simulation.life import Life

EVERY_S: Final = 200.0  # on average
CALM_S: Final = 1300.0  # at the end of a life: the longest run ends, and the longest retry comes
KINDS: Final = (
    "provider", "receiver", "network", "disk", "kill", "kill", "jump", "jump", "restart", "limit", "kill in a statement",
    "lost answer", "mix-up",
)  # fmt: skip
PROVIDER_FAULTS: Final = ("500", "502", "503", "429", "429", "429", "401", "garbage", "html", "hang", "reset")
PROVIDER_PAUSE_S: Final = 7  # every 429 of a provider asks for it
PAUSES_S: Final = {503: 40.0, 429: 25.0}  # the Retry-After of receivers, by status
RECEIVER_FAULTS: Final = (
    Reply(500), *(Reply(status, headers={"Retry-After": f"{pause_s:.0f}"}) for status, pause_s in PAUSES_S.items()),
    Reply(302), Reply(404), Reply(kind=ReplyKind.HANG), Reply(kind=ReplyKind.DROP), Reply(204, delay_s=4.0), Reply(204, delay_s=20.0),
    Reply(502), Reply(400),
)  # fmt: skip
CHANGING_S, RUSH = 90.0, 24
PAUSE_KEPT_S: Final = 2.2  # over the time within which the checkers excuse that it is lost
RELOAD_EVERY_S: Final = 150.0  # on average
JUMPS_S: Final = (-3600.0, -3600.0, -30.0, 30.0, 3600.0, 5 * 86400.0)


def plan(seed: int, hours: float) -> list[tuple[float, str]]:
    """When what begins to go wrong in a life, in seconds from its start."""
    chance, at_s, planned = random.Random(f"troubles {seed}"), 30.0, list[tuple[float, str]]()
    while (at_s := at_s + chance.expovariate(1 / EVERY_S)) < hours * 3600 - CALM_S:
        planned.append((at_s, chance.choice(KINDS)))
    return planned


class Troubles:
    """Brings them about. `only`: the numbers of those that happen; None: all."""

    def __init__(self, life: Life, only: frozenset[int] | None = None) -> None:
        self.life = life
        self.planned = plan(life.seed, life.hours)
        self._only = only
        self._kinds: dict[str, Callable[[random.Random], Awaitable[None]]] = {
            "provider": self._provider, "receiver": self._receiver, "network": self._network, "disk": self._disk,
            "kill": self._kill, "jump": self._jump, "restart": self._restart, "limit": self._limit,
            "kill in a statement": self._kill_in_statement, "lost answer": self._lost_answer, "mix-up": self._mix_up,
        }  # fmt: skip

    async def live(self) -> None:
        """All of them, each at its time, and reloads."""
        self.life.spawn(self._reload())
        for number, (at_s, kind) in enumerate(self.planned):
            await asyncio.sleep(max(0.0, START_S + at_s - self.life.now_s))
            if self._only is None or number in self._only:
                chance = random.Random(f"trouble {self.life.seed} {number}")
                self.life.spawn(self._kinds[kind](chance))  # type: ignore[arg-type]

    async def _reload(self) -> None:
        chance = random.Random(f"reloads {self.life.seed}")
        while self.life.now_s < self.life.calm_at_s:
            await asyncio.sleep(chance.expovariate(1 / RELOAD_EVERY_S))
            self.life.reload_daemon()

    def begin(self, kind: str, name: str = "", **more: object) -> Window:
        """Note that one begins."""
        self.life.say(kind, name=name, **more)
        window = Window(kind, name, self.life.now_s)
        self.life.windows.append(window)
        return window

    def end(self, window: Window) -> None:
        """Note that it is over."""
        window.until_s = self.life.now_s
        self.life.say(f"{window.kind} well", name=window.name)

    async def _last(self, chance: random.Random, least_s: float, most_s: float) -> None:
        end = START_S + self.life.storm_s
        await asyncio.sleep(max(0.0, min(chance.uniform(least_s, most_s), end - self.life.now_s)))

    async def _provider(self, chance: random.Random) -> None:
        sandbox = self.life.sandbox
        name, kind = chance.choice([*sandbox.providers, None]), chance.choice(PROVIDER_FAULTS)
        window = self.begin("provider", name or "", fault=kind)
        sandbox.fail(name, kind, None, PROVIDER_PAUSE_S if kind == "429" else None)
        if kind == "429":  # so that others of it are due before the end of the pause
            mine = [each for each in self.life.connections if name in (None, provider_of(each))]
            self.life.spawn(self.life.clients.register_batch(mine, RUSH, CHANGING_S))
            if chance.random() < 0.5:
                self.life.spawn(self._kill_in_pause(window, self._refused_by_provider))
        self.life.spawn(self.life.clients.trigger())
        await self._last(chance, 1, 400)
        sandbox.clear_faults()
        self.end(window)

    async def _limit(self, chance: random.Random) -> None:
        name = chance.choice(self.life.sandbox.providers)
        window = self.begin("limit", name)
        self.life.sandbox.limit(name, chance.choice([0.5, 2.0]), is_announced=chance.random() < 0.5)
        mine = [connection for connection in self.life.connections if provider_of(connection) == name]
        if len(mine) > 1:
            self.life.spawn(self.life.clients.register_batch(mine, RUSH, CHANGING_S))
        await self._last(chance, 30, 900)
        self.life.sandbox.limit(name, None)
        self.end(window)

    async def _receiver(self, chance: random.Random) -> None:
        name, reply = chance.choice(["orderly", *self.life.receivers]), chance.choice(RECEIVER_FAULTS)
        if name == "orderly":  # so that events wait for those before them
            self.life.spawn(self._change())
        window = self.begin("receiver", name, reply=reply.status, how=reply.kind, delay=reply.delay_s)
        self.life.receivers[name].always(reply)
        if reply.status in PAUSES_S and chance.random() < 0.7:
            self.life.spawn(self._change())
            self.life.spawn(self._kill_in_pause(window, lambda: self._paused_by_receiver(name)))
        await self._last(chance, 1, 900 if self.life.keeps_s is None else 2.5 * self.life.keeps_s)
        self.life.receivers[name].always(None)
        self.end(window)

    async def _kill_in_pause(self, window: Window, asked_at_s: Callable[[], float]) -> None:
        """Kill the daemon when it has just recorded that it is asked for a pause, and start it before its end."""
        while window.until_s > self.life.now_s:
            await asyncio.sleep(0.5)
            if PAUSE_KEPT_S < self.life.now_s - asked_at_s() < 2 * PAUSE_KEPT_S:
                self.life.kill_daemon()
                await asyncio.sleep(0.1)
                self.life.restart()
                return

    def _refused_by_provider(self) -> float:
        """When a provider last asked for a pause."""
        return next((at_s for at_s, seen in reversed(self.life.requests) if seen.fault == "429"), 0.0)

    def _paused_by_receiver(self, name: str) -> float:
        """When this receiver last asked for a pause."""
        return next((it.at_s for it in reversed(self.life.arrivals[name]) if it.post.status in PAUSES_S), 0.0)

    async def _network(self, chance: random.Random) -> None:
        name = chance.choice(sorted(self.life.ports))
        weather = chance.choice(
            [Weather(0.3, 2.0), Weather(refused=0.8), Weather(reset=0.2), Weather(lost=0.1), Weather(pieces=1.0)]
        )
        if name == "providers" and chance.random() < 0.4:  # an answer comes when the deadline has passed
            weather = Weather(6.0, 3.0)
            self.life.spawn(self.life.clients.race())
        window = self.begin("network", name, weather=weather)
        self.life.network.weather[self.life.ports[name]] = weather
        if name in ("providers", "api"):
            self.life.spawn(self.life.clients.trigger())
        await self._last(chance, 1, 600)
        self.life.network.weather[self.life.ports[name]] = CALM
        self.end(window)

    async def _disk(self, chance: random.Random) -> None:
        disk, how = self.life.disk, chance.choice(["full", "failing", "slow"])
        window = self.begin("disk", how)
        self.life.spawn(self._change())
        disk.is_full = how == "full"
        disk.fails = chance.choice([0.01, 0.2]) if how == "failing" else 0.0
        disk.slow_s = chance.choice([0.5, 5.0]) if how == "slow" else 0.0
        await self._last(chance, 1, 120)
        disk.is_full, disk.fails, disk.slow_s = False, 0.0, 0.0
        self.end(window)

    def _change(self) -> Coroutine[Any, Any, None]:
        """Runs that change in the next minutes, so that there is something to record."""
        return self.life.clients.register_batch(duration_s=CHANGING_S)

    async def _lost_answer(self, chance: random.Random) -> None:
        """Some of the next commits succeed and are said to have failed."""
        window = self.begin("disk", "lost answer")
        self.life.spawn(self._change())
        self.life.disk.loses_answer = chance.choice([0.2, 0.5])
        await self._last(chance, 1, 60)
        self.life.disk.loses_answer = 0.0
        self.end(window)

    async def _mix_up(self, chance: random.Random) -> None:
        """A provider answers some questions about a run with another run."""
        window = self.begin("provider", fault="mix-up")
        self.life.mixes_up = chance.choice([0.3, 1.0])
        await self._last(chance, 1, 200)
        self.life.mixes_up = 0.0
        self.end(window)

    async def _kill(self, chance: random.Random) -> None:
        if chance.random() < 0.4:
            self.life.kills_at_start = True
            self.life.spawn(self.life.clients.trigger())
            return
        self.life.loop.crash_in, self.life.loop.crash = chance.randrange(200), self.life.kill_daemon

    async def _kill_in_statement(self, chance: random.Random) -> None:
        self.life.spawn(self._change())
        self.life.disk.crash_in = chance.randrange(60)

    async def _restart(self, chance: random.Random) -> None:
        await self.life.stop_daemon()
        await self._last(chance, 0, 30)
        self.life.restart()

    async def _jump(self, chance: random.Random) -> None:
        """In half of them deliveries wait for their next attempt."""
        if chance.random() < 0.5:
            await self.life.set_wall(chance.choice(JUMPS_S))
            return
        name = chance.choice(["orderly", "orderly", *self.life.receivers])
        window = self.begin("receiver", name, reply=500)
        self.life.receivers[name].always(Reply(500))
        await self._last(chance, 100, 700)
        await self.life.set_wall(chance.choice(JUMPS_S))
        await self._last(chance, 1, 200)
        self.life.receivers[name].always(None)
        self.end(window)
