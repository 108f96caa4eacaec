"""A life that is driven step by step: `python -m tests.simulation.driven` reads commands, one JSON array a line. An argument names a
mutant to plant.

`["new", SEED]` forks a life from this process, which has everything imported; `["end"]` ends it. Each command is
answered by one line: `{"answer": ...}` or `{"error": traceback}`, which ends the life.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulation.virtual_clock import START_S, VirtualClock

if TYPE_CHECKING:
    from tests.simulation.life import Life
    from tests.simulation.world import Arrival

PAGE = 200
UNDER_WAY_S = 1.0  # how long a post may take to arrive


class Driver:
    """The commands that steer a life: its public methods."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._set_at: list[float] = []
        """When the wall clock was set."""

    async def begin(self) -> str:
        """Start the life, and create one endpoint through the API, as one of the file cannot be switched off; its id."""
        from tests.simulation.world import CANARY

        life = self._life
        await life.begin()
        receiver = await life.start_receiver("made")
        status, made = await life.ask_until(
            "POST", "/v1/endpoints", {"url": receiver.url("/hooks"), "secret": CANARY}, **{"Idempotency-Key": "made"}
        )
        assert status == 201, made
        return str(made["id"])

    async def register(self, provider: str, lasts_s: float, outcome: str) -> list[Any]:
        """Make a run that ends by itself and register it: the provider's id, the status, our id."""
        from bridge.sandbox.scenarios import Scenario

        theirs = self._life.sandbox.add_run(provider, scenario=Scenario(duration_s=lasts_s, outcome=outcome))
        return [theirs, *await self.register_again(provider, theirs)]

    async def register_again(self, provider: str, theirs: str) -> list[Any]:
        """The status and our id."""
        body = {"connection": provider, "provider_run_id": theirs}
        status, answer = await self._life.ask_until("POST", "/v1/runs", body)
        return [status, answer.get("id")]

    async def ask(self, method: str, path: str, body: Any) -> list[Any]:
        """One request, repeated while the daemon is down: status and body."""
        return list(await self._life.ask_until(method, path, body))

    async def rest(self, seconds: float) -> None:
        """Time passes."""
        await asyncio.sleep(seconds)

    async def set_provider(self, provider: str, kind: str | None) -> None:
        """Every request to it fails in this way from now on; None: it is well."""
        if kind is None:
            self._life.sandbox.clear_faults()
        else:
            self._life.sandbox.fail(provider, kind, None, None)

    async def set_receiver(self, endpoint: str, number: int | None) -> None:
        """It answers with this one of `RECEIVER_FAULTS` from now on; None: it is well."""
        from tests.simulation.troubles import RECEIVER_FAULTS

        self._life.receivers[endpoint].always(None if number is None else RECEIVER_FAULTS[number])

    async def set_disk(self, kind: str | None) -> None:
        """`full`, `failing`, or None: it is well."""
        self._life.disk.is_full, self._life.disk.fails = kind == "full", 0.2 if kind == "failing" else 0.0

    async def crash(self, *, callbacks: int | None = None, statements: int | None = None) -> None:
        """kill -9 after so many callbacks of the loop or statements of the writer; it starts again by itself."""
        if callbacks is not None:
            self._life.loop.crash_in, self._life.loop.crash = callbacks, self._life.kill_daemon
        self._life.disk.crash_in = statements

    async def jump(self, seconds: float) -> None:
        """The wall clock is set."""
        self._set_at.append(self._life.clock.now_s)
        self._life.clock.set_wall(seconds)

    def _is_verified(self, arrival: Arrival) -> bool:
        """Whether the signature is good, or was made just before the clock was set: such a post is tried again."""
        return arrival.post.verified or any(0 <= arrival.at_s - set_at < UNDER_WAY_S for set_at in self._set_at)

    async def mend(self) -> None:
        """Nothing is broken any more."""
        self._life.end_trouble()

    async def look(self) -> dict[str, Any]:
        """How old the life is, its runs by id, its events in the feed's order, and the posts of each endpoint."""
        runs, events = await self._pages("/v1/runs"), await self._pages("/v1/events")
        return {
            "age_s": self._life.clock.now_s - START_S,
            "runs": {run["id"]: [run["status"], run["settled"]] for run in runs},
            "events": [
                [event["id"], event["type"], run and run["id"], event["data"].get("sequence"), run and run["status"]]
                for event in events
                for run in [event["data"].get("run")]
            ],
            "posts": {
                name: [
                    [one.post.id, one.post.status, hashlib.sha256(one.post.body).hexdigest(), self._is_verified(one)]
                    for one in arrivals
                ]
                for name, arrivals in self._life.arrivals.items()
            },
            "faults": [*self._life.faults, *map(str, self._life.loop.faults)],
        }

    async def _pages(self, path: str) -> list[Any]:
        found: list[Any] = []
        cursor = ""
        while True:
            status, page = await self._life.ask_until("GET", f"{path}?limit={PAGE}{cursor}")
            assert status == 200, page
            found += page["data"]
            if not page["next_cursor"] or not page["data"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"


def live(clock: VirtualClock, seed: int) -> None:
    """One life, until its end is asked for; its answers go to standard output."""
    from tests.simulation.life import Life

    with tempfile.TemporaryDirectory(prefix="driven-") as folder:
        life = Life(clock, 12 * seed + 1, Path(folder))  # one that keeps everything and gives no delivery up
        driver = Driver(life)
        say(answer=life.loop.run_until_complete(driver.begin()))
        while (command := json.loads(sys.stdin.readline() or '["end"]'))[0] != "end":
            name, *given = command
            more = given.pop() if given and isinstance(given[-1], dict) and name == "crash" else {}
            say(answer=life.loop.run_until_complete(getattr(driver, name)(*given, **more)))
        say(answer=None)


def say(**answer: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve one life after the other until standard input ends."""
    clock = VirtualClock()
    clock.take_over()
    for mutant in sys.argv[1:]:
        from tests.simulation.mutants import mutant_named
        from tests.simulation.planting import plant

        plant(mutant_named(mutant))
    import tests.simulation.life  # noqa: F401 - imported once, for all lives

    while line := sys.stdin.readline():
        command, pid = json.loads(line), os.fork()
        if pid == 0:
            try:
                live(clock, command[1])
            except BaseException:  # noqa: BLE001 - for the test; nothing of a life may go on
                say(error=traceback.format_exc())
                while json.loads(sys.stdin.readline() or '["end"]')[0] != "end":
                    say(error="the life is over")
                say(answer=None)
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
