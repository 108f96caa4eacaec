"""The people and programs of a life: they register runs, read the feed, and change what can be changed over the API."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from bridge.domain.run import RunError
from bridge.sandbox.receiver import Reply
from bridge.sandbox.scenarios import Scenario, Step
from tests.simulation.world import CANARY, Feed, Registration

if TYPE_CHECKING:
    from tests.simulation.world import World

BURST_EVERY_S: Final = 260.0
ACT_EVERY_S: Final = 200.0
FEED_EVERY_S: Final = (10.0, 90.0)
BATCH: Final = 6
OPEN_MAX: Final = 40  # runs; more are not registered where the machine is too slow
OUTCOMES: Final = {
    "dibby": ("succeeded", "succeeded", "failed"),
    "retab": ("succeeded", "succeeded", "failed", "cancelled"),
    "dify": ("succeeded", "succeeded", "failed", "partial", "cancelled"),
    "instabase": ("succeeded", "succeeded", "failed", "cancelled"),
}


class Clients:
    """The clients of a life: their requests, and the promises that the answers made."""

    def __init__(self, life: World) -> None:
        self.life = life
        self.chance = random.Random(f"clients {life.seed}")
        self.registrations: list[Registration] = []
        self._numbers = itertools.count(1)
        self.feed = Feed()
        self.endpoint_ids: dict[str, str] = {}
        self.off: list[tuple[float, float]] = []
        """When `switched` was surely switched off."""
        self.maybe_off: list[tuple[float, float]] = []
        self.retired: list[tuple[str, float]] = []
        """Secrets of `switched` that no longer sign, and since when."""
        self.secret = CANARY
        self.replayed_at_s: dict[str, list[float]] = {}
        """When events were asked for again, by endpoint."""
        self.replays: list[str] = []
        """Their ids."""
        self.by_hand_at_s: list[float] = []
        """When a person asked for something to be sent or polled at once."""
        self.pings: dict[str, str] = {}
        """Event and endpoint."""
        self.triggered: dict[str, int] = {}
        """Answers by the key of each run that was to be started at a provider."""
        self._is_calm = False
        self._switching, self._rotating = asyncio.Lock(), asyncio.Lock()

    # -- what they do all the time

    async def live(self) -> None:
        """Make endpoints, then everything at once."""
        private: tuple[tuple[str, dict[str, Any]], ...] = (
            ("chosen", {"filter": "data.run.metadata.group == 'a'"}),
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
        self.life.sandbox.set_triggered_scenario("dibby", Scenario(30.0 * self.life.pace, output={"mark": mark_of(0)}))
        for forever in (self._register_bursts, self._read_feed, self._act):
            self.life.spawn(forever())

    async def calm_down(self) -> None:
        """Switch on what was switched off, and ask for what it missed."""
        self._is_calm = True
        async with self._switching:  # not while it is off
            await self._replay("switched", status="missed")

    def is_storm(self) -> bool:
        return self.life.now_s < self.life.calm_at_s

    async def _register_bursts(self) -> None:
        while self.is_storm():
            await self._sleep(self.chance.expovariate(1 / BURST_EVERY_S))
            if not self.is_storm():
                return
            if self._open_runs() > OPEN_MAX:
                continue
            if self.chance.random() < 0.2:
                self.life.spawn(self._register_batch())
            for _ in range(self.chance.choice([1, 1, 1, 2, 8])):
                act = self.trigger if self.chance.random() < 0.1 else self._register
                self.life.spawn(act())

    def _open_runs(self) -> int:
        is_over = self.feed.finished_at_s
        return sum(entry.removed_after is None and entry.run_id not in is_over for entry in self.registrations)

    async def _read_feed(self) -> None:
        while True:
            await self.read_feed()
            await self._look_back()
            await self._sleep(self.chance.uniform(*FEED_EVERY_S))

    async def _look_back(self) -> None:
        """A run whose end is not old enough to be deleted is still there."""
        keeps_s, life = self.life.keeps_s, self.life
        young = [
            entry
            for entry in self.registrations
            if entry.run_id in self.feed.finished_at_s
            and entry.removed_after is None
            and (keeps_s is None or life.now_s - self.ended_at_s(entry) < keeps_s - 60)
        ]
        if young:
            entry, asked_at_s = self.chance.choice(young), life.now_s
            status, answer = await life.ask_until("GET", f"/v1/runs/{entry.run_id}")
            is_due = keeps_s is not None and life.now_s - self.ended_at_s(entry) > keeps_s
            if status != 200 and entry.removed_after is None and not is_due:
                life.faults.append(f"{asked_at_s:.0f}: {entry.run_id} has ended and is no longer kept: {answer}")

    def ended_at_s(self, entry: Registration) -> float:
        """When a run ended, or a little earlier: retention counts from its end at the provider, if that is known."""
        from_s, state = self.feed.finished_at_s[entry.run_id or ""], self.life.sandbox.state
        theirs = state.get(entry.connection, entry.provider_run_id)
        if theirs is None:
            return from_s
        return min(from_s, theirs.created_s + (state.snapshot(theirs).finished_after_s or 0.0))

    async def read_feed(self) -> None:
        """Read on to the end of the feed."""
        feed = self.feed
        while True:
            asked_at_s = self.life.now_s
            after = f"&after={feed.after}" if feed.after else ""
            status, page = await self.life.ask_until("GET", f"/v1/events?limit=200{after}")
            if status != 200:
                is_deleted = self.life.keeps_s is not None and self._is_kept_by_wall_clock(feed.after)
                if not is_deleted:
                    self.life.faults.append(f"the feed does not go on after {feed.after}: {status} {page}")
                read = [event["id"] for event in feed.events]
                feed.after = read[read.index(feed.after) - 1] if feed.after in read[1:] else None
                if not is_deleted or feed.after is None:
                    return
                continue
            known = {event["id"] for event in feed.events[-400:]} if self.life.keeps_s is not None else set()
            page["data"] = [event for event in page["data"] if event["id"] not in known]
            feed.events += page["data"]
            feed.read_at_s += [(feed.asked_at_s, self.life.now_s)] * len(page["data"])
            for event in page["data"]:
                if event["type"] == "run.finished":
                    feed.finished_at_s[event["data"]["run"]["id"]] = feed.asked_at_s
            feed.asked_at_s, feed.after = asked_at_s, page["next_cursor"]
            if len(page["data"]) < 200:
                return

    def _is_kept_by_wall_clock(self, event_id: str | None) -> bool:
        """Whether retention may delete this event too soon when the clock is set: it is about no run, or a removed one."""
        removed = {entry.run_id for entry in self.registrations if entry.removed_after is not None}
        event = next((each for each in self.feed.events if each["id"] == event_id), None)
        run = event and event["data"]["run"]
        return event is not None and (run is None or run["id"] in removed)

    async def _act(self) -> None:
        acts: list[Callable[[], Awaitable[None]]] = [
            self._switch, self._rotate, self._poll_now, self._cancel, self._remove, self._retry, self._ping,
            lambda: self._replay("chosen"), self._wait,
        ]  # fmt: skip
        while self.is_storm():
            await self._sleep(self.chance.expovariate(1 / ACT_EVERY_S))
            if not self.is_storm():
                return
            self.life.spawn(self.chance.choice(acts)())  # type: ignore[arg-type]

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.life.pace)

    # -- runs

    def _scenario(self, provider: str, number: int, duration_s: float | None = None) -> Scenario:
        chance = self.chance
        if duration_s is None:
            duration_s = chance.choice([0.0, 2.0, 20.0, 90.0, 300.0, 600.0]) * (0.5 + chance.random())
        is_long, duration_s = duration_s > 60, duration_s * self.life.pace
        steps = [Step(0, chance.choice(["running", "queued"]) if provider != "instabase" else "running")]
        if is_long or duration_s > 10:
            steps.append(Step(duration_s * 0.3, "running"))
        if is_long and provider != "dibby" and chance.random() < 0.3:
            steps += [Step(duration_s * 0.5, "waiting"), Step(duration_s * 0.7, "running")]
        if is_long and self.life.pace == 1 and chance.random() < 0.1:  # a run is lost after a minute
            gone_s = min(duration_s, 200.0)
            steps = [*(step for step in steps if step.after_s < gone_s), Step(gone_s, "lost")]
        return Scenario(
            duration_s=None if steps[-1].status == "lost" else duration_s,
            outcome=chance.choice(OUTCOMES[provider]),
            steps=tuple(steps),
            output={"number": number, "mark": mark_of(number), "text": "ü" * chance.choice([1, 10, 3000])},
            error=RunError(f"it broke, {mark_of(number)}", "broken", "step 2"),
        )

    async def _register(self) -> None:
        number, provider = next(self._numbers), self.chance.choice(self.life.sandbox.providers)
        scenario, deadline_s = self._scenario(provider, number), None
        if self.chance.random() < 0.08:
            scenario, deadline_s = Scenario(duration_s=None), self.chance.choice([300.0, 900.0]) * self.life.pace
        entry = self._make(provider, number, scenario, deadline_s)
        is_given_up = deadline_s is not None or scenario.duration_s is None  # registered again it is a new run
        key = f"key {entry.provider_run_id}"
        headers = {"Idempotency-Key": key} if is_given_up or self.chance.random() < 0.5 else {}
        for _ in range(1 if is_given_up else self.chance.choice([1, 1, 2])):
            self._accepted(entry, *await self.life.ask_until("POST", "/v1/runs", entry.body, **headers))
        self._is_registered(entry)

    def _make(self, provider: str, number: int, scenario: Scenario, deadline_s: float | None = None) -> Registration:
        """A run at the provider, and what a client is going to say of it."""
        life, late_s = self.life, self.chance.choice([0, 0, 0, 2.0])
        theirs = life.sandbox.add_run(
            provider, scenario=scenario, late_404_s=late_s * life.pace, workflow_id=f"flow {provider}"
        )
        body: dict[str, Any] = {"connection": provider, "provider_run_id": theirs, "tags": [f"n{number}"]}
        body["metadata"] = {"number": number, "group": self.chance.choice("ab")}
        body["deadline"] = f"{deadline_s or life.hours * 3600 + 3600:.0f}s"
        entry = Registration(provider, theirs, number, body, deadline_s, mark=mark_of(number))
        if self.chance.random() < 0.15:
            self._add_webhook(entry)
        self.registrations.append(entry)
        return entry

    def _add_webhook(self, entry: Registration) -> None:
        entry.webhook = f"/once/{entry.number}"
        entry.body["webhook"] = {"url": self.life.receivers["once"].url(entry.webhook), "secret": CANARY}

    def _is_registered(self, entry: Registration) -> None:
        entry.is_done = True
        self.life.say("registered", run=entry.run_id, theirs=entry.provider_run_id, number=entry.number)

    async def _register_batch(self) -> None:
        """Runs that end at the same moment and have webhooks of their own, in one request."""
        provider, duration_s = self.chance.choice(self.life.sandbox.providers), self.chance.choice([0.0, 30.0])
        numbers = [next(self._numbers) for _ in range(BATCH)]
        entries = [self._make(provider, each, self._scenario(provider, each, duration_s)) for each in numbers]
        for entry in entries[::2]:
            self._add_webhook(entry)
        body = {"runs": [entry.body for entry in entries]}
        status, answer = await self.life.ask_until(
            "POST", "/v1/runs/batch", body, **{"Idempotency-Key": f"batch {numbers[0]}"}
        )
        if status != 200:
            self.life.faults.append(f"a batch was refused: {status} {answer}")
            return
        for entry, item in zip(entries, answer["data"], strict=True):
            self._accepted(entry, item["status"], item.get("run", item))
            self._is_registered(entry)

    async def race(self) -> None:
        """Runs that end at about their deadline."""
        provider = self.chance.choice(self.life.sandbox.providers)
        for _ in range(BATCH):
            number, deadline_s = next(self._numbers), self.chance.uniform(20, 120) * self.life.pace
            scenario = self._scenario(provider, number, deadline_s + self.chance.uniform(-20, 10))
            entry = self._make(provider, number, scenario, deadline_s)
            entry.may_end = True
            key = {"Idempotency-Key": f"key {entry.provider_run_id}"}
            self._accepted(entry, *await self.life.ask_until("POST", "/v1/runs", entry.body, **key))
            self._is_registered(entry)

    def _accepted(self, entry: Registration, status: int, answer: Any) -> None:
        faults = self.life.faults
        if status not in (200, 201):
            faults.append(f"a registration was refused: {status} {answer}")
            return
        if entry.run_id not in (None, answer["id"]):
            faults.append(f"registered twice with two ids: {entry} {answer}")
        said = {name: answer[name] for name in ("connection", "provider_run_id", "metadata", "tags")}
        if said != {name: entry.body[name] for name in said}:
            faults.append(f"registered {entry.body} and was answered {said}")
        entry.run_id = answer["id"]
        entry.webhook_id = (answer.get("webhook") or {}).get("id", entry.webhook_id)
        entry.accepted_at_s = entry.accepted_at_s or self.life.now_s

    async def trigger(self) -> None:
        """Start a run at the provider through the API, with one key, until there is an answer."""
        number, provider, key = next(self._numbers), "dibby", f"start {self.chance.randrange(10**9)}"
        self.triggered[key] = 0
        metadata = {"number": number, "group": "b"}
        body = {
            "connection": provider,
            "trigger": {"workflow_id": f"flow {provider}", "inputs": {"key": key}},
            "metadata": metadata,
            "tags": [],
        }
        self.registrations.append(entry := Registration(provider, "", number, body, mark=mark_of(0)))
        while True:
            status, answer = await self.life.ask_again("POST", "/v1/runs", body, **{"Idempotency-Key": key})
            if status in (503, 429):
                await self._sleep(5)
                continue
            break
        self.triggered[key] = status
        self.life.say("triggered", key=key, status=status)
        if status in (200, 201):
            body["provider_run_id"] = entry.provider_run_id = answer["provider_run_id"]
            self._accepted(entry, status, answer)
        else:
            self.registrations.remove(entry)

    def _an_open_run(self, *providers: str) -> Registration | None:
        state, chosen = self.life.sandbox.state, []
        for entry in self.registrations:
            run = state.get(entry.connection, entry.provider_run_id)
            is_open = run is not None and not state.snapshot(run).status.is_settled and entry.deadline_s is None
            if is_open and entry.is_done and entry.removed_after is None and entry.connection in providers:
                chosen.append(entry)
        return self.chance.choice(chosen) if chosen else None

    async def _poll_now(self) -> None:
        if entry := self._an_open_run(*self.life.sandbox.providers):
            await self.life.ask_until("POST", f"/v1/runs/{entry.run_id}/poll")

    async def _wait(self) -> None:
        if entry := self._an_open_run(*self.life.sandbox.providers):
            await self.life.ask_until("GET", f"/v1/runs/{entry.run_id}/wait?timeout={10 if self.life.pace == 1 else 1}")

    async def _cancel(self) -> None:
        if (entry := self._an_open_run("retab")) is None:
            return
        status, answer = await self.life.ask_until("POST", f"/v1/runs/{entry.run_id}/cancel")
        state = self.life.sandbox.state
        run = state.get(entry.connection, entry.provider_run_id)
        if status == 202 and run is not None and not state.snapshot(run).status.is_settled:
            self.life.faults.append(f"{entry.run_id} was to be cancelled, and the provider was not asked: {answer}")

    async def _remove(self) -> None:
        if (entry := self._an_open_run(*self.life.sandbox.providers)) is None:
            return
        entry.removed_after = ""
        status, answer = await self.life.ask_until("DELETE", f"/v1/runs/{entry.run_id}")
        if status not in (204, 404):  # 404: the first answer was lost
            self.life.faults.append(f"{entry.run_id} cannot be removed: {status} {answer}")
        _, newest = await self.life.ask_until("GET", "/v1/events?order=newest&limit=1")
        entry.removed_after = newest["data"][0]["id"] if newest["data"] else ""
        self.life.say("removed", run=entry.run_id)

    # -- endpoints and deliveries

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
            old, self.secret = self.secret, "whsec_" + f"{self.chance.randrange(10**30):032d}"
            self.life.receivers["switched"].add_secret(self.secret)
            body = {"secret": self.secret, "overlap": self.chance.choice(["0s", "10m"])}
            path = f"/v1/endpoints/{self.endpoint_ids['switched']}/rotate-secret"
            key = {"Idempotency-Key": f"rotate {self.secret}"}
            status, answer = await self.life.ask_until("POST", path, body, **key)
            assert status == 200, answer
            self.retired.append((old, self.life.now_s + (0 if body["overlap"] == "0s" else 600)))
            self.life.say("rotated", overlap=body["overlap"])

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


def mark_of(number: int) -> str:
    """A word that the output of this run holds, and no other."""
    return f"mark-{number:05d}."
