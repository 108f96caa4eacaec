"""The people of a life who look after endpoints: they switch them, rotate secrets, retry, ping and replay over the API."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bridge.sandbox.receiver import Reply
from tests.simulation.world import CANARY

if TYPE_CHECKING:
    from tests.simulation.world import World

OVERLAP_S: Final = 600.0
FILTER: Final = "data.run.metadata.group == 'a' && length(data.run.metadata.many[?@ >= `0`] || `[]`) >= `0`"
"""Dear where there are many."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """`new` signs since some moment between `asked_at_s` and `at_s`, and the one before for `overlap_s`; 0 ends all old ones."""

    new: str
    asked_at_s: float
    at_s: float
    overlap_s: float


class Operators:
    """What they do to endpoints and deliveries, and what they were promised."""

    def __init__(self, life: World) -> None:
        self.life = life
        self.chance = random.Random(f"clients {life.seed}")
        self.endpoint_ids: dict[str, str] = {}
        self.off: list[tuple[float, float]] = []
        """When `switched` was surely switched off."""
        self.maybe_off: list[tuple[float, float]] = []
        self.rotations: list[Rotation] = []
        self.secret = CANARY
        self.replayed_at_s: dict[str, list[float]] = {}
        """When events were asked for again, by endpoint."""
        self.replays: list[str] = []
        """Their ids."""
        self.by_hand_at_s: list[float] = []
        """When a person asked for something to be sent or polled at once."""
        self.pings: dict[str, str] = {}
        """Event and endpoint."""
        self._switching, self._rotating = asyncio.Lock(), asyncio.Lock()

    async def make_endpoints(self) -> None:
        """Make those that are not in the file."""
        private: tuple[tuple[str, dict[str, Any]], ...] = (
            ("chosen", {"filter": FILTER}),
            ("switched", {}),
            ("slow", {"events": ["run.finished"], "rate_limit": self.life.slow_per_s}),
        )
        for name, settings in private:
            body = {"url": self.life.receivers[name].url("/hooks"), "secret": self.secret, **settings}
            status, made = await self.life.ask_until(
                "POST", "/v1/endpoints", body, **{"Idempotency-Key": f"make {name}"}
            )
            assert status == 201, made
            self.endpoint_ids[name] = made["id"]

    async def calm_down(self) -> None:
        """Switch on what was switched off, and ask for what it missed."""
        async with self._switching:  # not while it is off
            await self._replay("switched", status="missed")

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.life.pace)

    async def _switch(self) -> None:
        if self._switching.locked():
            return
        async with self._switching:
            path = f"/v1/endpoints/{self.endpoint_ids['switched']}"
            if is_failing := self.chance.random() < 0.5:  # so that something waits for it
                self.life.receivers["switched"].always(Reply(500))
                await self._sleep(self.chance.uniform(30, 300))
            asked_at_s = self.life.now_s
            status, answer = await self.life.ask_until("POST", f"{path}/disable")
            assert status == 200, answer
            off_at_s = self.life.now_s
            if is_failing:
                self.life.receivers["switched"].always(None)
            off_s = self.chance.uniform(60, 4000) * self.life.pace
            await asyncio.sleep(max(0.0, min(off_s, self.life.calm_at_s - off_at_s)))
            self.off.append((off_at_s, self.life.now_s))
            status, answer = await self.life.ask_until("POST", f"{path}/enable")
            assert status == 200 or "configuration" not in str(answer), answer
            self.maybe_off.append((asked_at_s, self.life.now_s))
            self.life.say("switched on again")

    async def _rotate(self) -> None:
        async with self._rotating:  # otherwise the older of two new secrets may be the last to take effect
            self.secret, asked_at_s = "whsec_" + f"{self.chance.randrange(10**30):032d}", self.life.now_s
            self.life.receivers["switched"].add_secret(self.secret)
            overlap_s = self.chance.choice([0.0, OVERLAP_S])
            body = {"secret": self.secret, "overlap": f"{overlap_s:.0f}s"}
            path = f"/v1/endpoints/{self.endpoint_ids['switched']}/rotate-secret"
            key = {"Idempotency-Key": f"rotate {self.secret}"}
            status, answer = await self.life.ask_until("POST", path, body, **key)
            assert status == 200, answer
            self.rotations.append(Rotation(self.secret, asked_at_s, self.life.now_s, overlap_s))
            self.life.say("rotated", overlap_s=overlap_s)

    async def _retry(self) -> None:
        _, page = await self.life.ask_until("GET", "/v1/deliveries?state=pending&limit=20")
        if page["data"]:
            chosen = self.chance.choice(page["data"])
            status, _ = await self.life.ask_until("POST", f"/v1/deliveries/{chosen['id']}/retry")
            self.by_hand_at_s.append(self.life.now_s)
            self.life.say("retried by hand", delivery=chosen["id"], status=status)

    async def _ping(self) -> None:
        name = self.chance.choice(["chosen", "slow"])
        key = {"Idempotency-Key": f"ping {self.life.now_s}"}
        status, answer = await self.life.ask_until("POST", f"/v1/endpoints/{self.endpoint_ids[name]}/ping", **key)
        assert status == 202, answer
        self.pings[answer["event_id"]] = name
        self.by_hand_at_s.append(self.life.now_s)

    async def _replay(self, name: str, **more: str) -> None:
        body = {"since": "2020-01-01T00:00:00Z", **more}
        key = {"Idempotency-Key": f"replay {self.life.now_s}"}
        path = f"/v1/endpoints/{self.endpoint_ids[name]}/replay"
        status, answer = await self.life.ask_until("POST", path, body, **key)
        assert status == 202, answer
        self.replayed_at_s.setdefault(name, []).append(self.life.now_s)
        self.replays.append(answer["id"])
        self.life.say("replayed", name=name, answer=answer)
