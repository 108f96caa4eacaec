"""The programs of a life that register runs, and the people who poll, cancel and remove them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from bridge.domain.run import RunError
from bridge.sandbox.scenarios import Scenario, Step
from tests.simulation.readers import Readers
from tests.simulation.world import CANARY, SAME_IDS, Registration, provider_of

if TYPE_CHECKING:
    from tests.simulation.world import World

BURST_EVERY_S: Final = 260.0
ACT_EVERY_S: Final = 200.0
BATCH: Final = 6
OPEN_MAX: Final = 40  # runs; more are not registered where the machine is too slow
OUTCOMES: Final = {
    "dibby": ("succeeded", "succeeded", "failed"),
    "retab": ("succeeded", "succeeded", "failed", "cancelled"),
    "dify": ("succeeded", "succeeded", "failed", "partial", "cancelled"),
    "instabase": ("succeeded", "succeeded", "failed", "cancelled"),
}
LASTING_S: Final = 600.0  # longer than any run that is lost: of a connection that finds no run any more none is lost
MANY: Final = 1500  # more than a filter may look at while others wait
WAITING_DEADLINE_S: Final = 1500  # longer than any trouble in which nobody sees that the run waits


class Clients(Readers):
    """The clients of a life: their requests, and the promises that the answers made."""

    def __init__(self, life: World) -> None:
        super().__init__(life)
        self._numbers = itertools.count(1)
        self.polled_s: list[tuple[float, float]] = []
        """From when until when a poll at once was asked for."""
        self.triggered: dict[str, int] = {}
        """Answers by the key of each run that was to be started at a provider."""

    # -- what they do all the time

    async def live(self) -> None:
        """Make endpoints, then everything at once."""
        await self.make_endpoints()
        self.life.sandbox.set_triggered_scenario("dibby", Scenario(30.0 * self.life.pace, output={"mark": mark_of(0)}))
        for forever in (self._register_bursts, self.follow_feed, self._act):
            self.life.spawn(forever())
        if self.life.pace == 1:
            await self._register_one_that_waits()

    async def calm_down(self) -> None:
        """Watch one more run of each connection, by which it can recover; then look after the endpoints."""
        for connection in self.life.connections:
            self.life.spawn(self._register(connection, LASTING_S))
        await super().calm_down()

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
                self.life.spawn(self.register_batch())
            for _ in range(self.chance.choice([1, 1, 1, 2, 8])):
                act = self.trigger if self.chance.random() < 0.1 else self._register
                self.life.spawn(act())

    def _open_runs(self) -> int:
        is_over = self.feed.finished_at_s
        return sum(entry.removed_after is None and entry.run_id not in is_over for entry in self.registrations)

    async def _act(self) -> None:
        acts: list[Callable[[], Awaitable[None]]] = [
            self._switch, self._rotate, self._poll_now, self._cancel, self._remove, self._retry, self._ping,
            lambda: self._replay("chosen"), self._wait, self._register_again,
        ]  # fmt: skip
        while self.is_storm():
            await self._sleep(self.chance.expovariate(1 / ACT_EVERY_S))
            if not self.is_storm():
                return
            self.life.spawn(self.chance.choice(acts)())  # type: ignore[arg-type]

    # -- runs

    def _scenario(self, provider: str, number: int, duration_s: float | None = None) -> Scenario:
        chance, may_be_lost = self.chance, duration_s is None
        if duration_s is None:
            duration_s = chance.choice([0.0, 2.0, 20.0, 90.0, 300.0, 600.0]) * (0.5 + chance.random())
        is_long, duration_s = duration_s > 60, duration_s * self.life.pace
        steps = [Step(0, chance.choice(["running", "queued"]) if provider != "instabase" else "running")]
        if is_long or duration_s > 10:
            steps.append(Step(duration_s * 0.3, "running"))
        if is_long and provider != "dibby" and chance.random() < 0.3:
            steps += [Step(duration_s * 0.5, "waiting"), Step(duration_s * 0.7, "running")]
        if is_long and may_be_lost and self.life.pace == 1 and chance.random() < 0.1:  # a run is lost after a minute
            gone_s = min(duration_s, 200.0)
            steps = [*(step for step in steps if step.after_s < gone_s), Step(gone_s, "lost")]
        return Scenario(
            duration_s=None if steps[-1].status == "lost" else duration_s,
            outcome=chance.choice(OUTCOMES[provider]),
            steps=tuple(steps),
            output={"number": number, "mark": mark_of(number), "text": "ü" * chance.choice([1, 10, 3000])},
            error=RunError(f"it broke, {mark_of(number)}", "broken", "step 2"),
        )

    async def _register(self, connection: str | None = None, duration_s: float | None = None) -> None:
        number, connection = next(self._numbers), connection or self.chance.choice(self.life.connections)
        scenario, deadline_s = self._scenario(provider_of(connection), number, duration_s), None
        if duration_s is None and self.chance.random() < 0.08:
            scenario, deadline_s = Scenario(duration_s=None), self.chance.choice([300.0, 900.0]) * self.life.pace
        entry = self._make(connection, number, scenario, deadline_s)
        is_given_up = deadline_s is not None or entry.is_lost  # registered again it is a new run
        key = f"key {connection} {entry.provider_run_id}"
        headers = {"Idempotency-Key": key} if is_given_up or self.chance.random() < 0.5 else {}

        async def register() -> None:
            self._accepted(entry, *await self.life.ask_until("POST", "/v1/runs", entry.body, **headers))

        times = 1 if is_given_up else self.chance.choice([1, 1, 2])
        if self.chance.random() < 0.5:
            await asyncio.gather(*(register() for _ in range(times)))
        else:
            for _ in range(times):
                await register()
        self._is_registered(entry)

    async def _register_one_that_waits(self) -> None:
        """A run that waits for a person for longer than its deadline, which does not count that."""
        number, waits_until_s = next(self._numbers), WAITING_DEADLINE_S + 150
        steps = (Step(0, "running"), Step(30, "waiting"), Step(waits_until_s, "running"))
        scenario = Scenario(waits_until_s + 20, steps=steps, output={"mark": mark_of(number)})
        entry = self._make("retab", number, scenario)
        entry.body["deadline"] = f"{WAITING_DEADLINE_S}s"
        key = {"Idempotency-Key": f"key retab {entry.provider_run_id}"}
        self._accepted(entry, *await self.life.ask_until("POST", "/v1/runs", entry.body, **key))

    async def _register_again(self) -> None:
        """A run that a client registered long ago, with other metadata, is the same run."""
        known = [e for e in self.registrations if e.is_done and not e.is_lost and e.deadline_s is None]
        known = [entry for entry in known if entry.removed_after is None]
        if not known or self.life.keeps_s is not None:  # it may be deleted
            return
        entry = self.chance.choice(known)
        body = {**{key: value for key, value in entry.body.items() if key != "webhook"}, "tags": ["again"]}
        status, answer = await self.life.ask_until("POST", "/v1/runs", body)
        if (status, answer.get("id")) != (200, entry.run_id) and entry.removed_after is None:
            self.life.faults.append(f"{entry.run_id} was registered again, and the answer was {status} {answer}")

    def _make(self, connection: str, number: int, scenario: Scenario, deadline_s: float | None = None) -> Registration:
        """A run at the provider, and what a client is going to say of it."""
        life, late_s = self.life, self.chance.choice([0, 0, 0, 2.0])
        provider, theirs = provider_of(connection), self._id_of_another(connection) if deadline_s is None else None
        same = next((e for e in self.registrations if (e.provider, e.provider_run_id) == (provider, theirs)), None)
        if theirs is None or same is None:
            theirs = life.sandbox.add_run(
                provider,
                run_id=theirs,
                scenario=scenario,
                late_404_s=late_s * life.pace,
                workflow_id=f"flow {provider}",
            )
        body: dict[str, Any] = {"connection": connection, "provider_run_id": theirs, "tags": [f"n{number}"]}
        body["metadata"] = {"number": number, "group": "ab"[number % 2]}
        if number % 6 == 0:
            body["metadata"]["many"] = [*range(MANY)]
        body["deadline"] = f"{deadline_s or life.hours * 3600 + 3600:.0f}s"
        entry = Registration(connection, theirs, number, body, deadline_s, mark=mark_of(number))
        entry.is_lost = scenario.duration_s is None
        if same is not None:
            entry.mark, entry.is_lost = same.mark, same.is_lost
        if self.chance.random() < 0.15:
            self._add_webhook(entry)
        self.registrations.append(entry)
        return entry

    def _id_of_another(self, connection: str) -> str | None:
        """Now and then the id of a run of another connection; at an account of the same provider it is the same run."""
        if connection not in SAME_IDS or self.chance.random() > 0.2:
            return None
        taken = {entry.provider_run_id for entry in self.registrations if entry.connection == connection}
        found = [e.provider_run_id for e in self.registrations if e.connection in SAME_IDS and e.deadline_s is None]
        found = [theirs for theirs in found if theirs not in taken]
        return self.chance.choice(found) if found else None

    def _add_webhook(self, entry: Registration) -> None:
        entry.webhook = f"/once/{entry.number}"
        entry.body["webhook"] = {"url": self.life.receivers["once"].url(entry.webhook), "secret": CANARY}

    def _is_registered(self, entry: Registration) -> None:
        entry.is_done = True
        self.life.say("registered", run=entry.run_id, theirs=entry.provider_run_id, number=entry.number)

    async def register_batch(
        self, connections: Sequence[str] = (), count: int = BATCH, duration_s: float = 0.0
    ) -> None:
        """Runs of these connections (of one, where none is given) in one request, some with a webhook, one perhaps twice."""
        connections = connections or [self.chance.choice(self.life.connections)]
        duration_s = duration_s or self.chance.choice([0.0, 30.0])
        entries = []
        for number in [next(self._numbers) for _ in range(count)]:
            connection = self.chance.choice(connections)
            entries.append(self._make(connection, number, self._scenario(provider_of(connection), number, duration_s)))
        for entry in entries[::2]:
            self._add_webhook(entry)
        twice = [entry for entry in entries[1:2] if not entry.is_lost and self.chance.random() < 0.5]
        body = {"runs": [entry.body for entry in (*entries, *twice)]}
        status, answer = await self.life.ask_until(
            "POST", "/v1/runs/batch", body, **{"Idempotency-Key": f"batch {entries[0].number}"}
        )
        if status != 200:
            self.life.faults.append(f"a batch was refused: {status} {answer}")
            return
        for entry, item in zip((*entries, *twice), answer["data"], strict=True):
            self._accepted(entry, item["status"], item.get("run", item))
            self._is_registered(entry)

    async def race(self) -> None:
        """Runs that end at about their deadline."""
        connection = self.chance.choice(self.life.connections)
        for _ in range(BATCH):
            number, deadline_s = next(self._numbers), self.chance.uniform(20, 120) * self.life.pace
            scenario = self._scenario(provider_of(connection), number, deadline_s + self.chance.uniform(-20, 10))
            entry = self._make(connection, number, scenario, deadline_s)
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
        """Start a run at the provider through the API, with one key; perhaps ask once more, which starts nothing."""
        number, provider, key = next(self._numbers), "dibby", f"start {self.chance.randrange(10**9)}"
        asked = {
            "connection": provider,
            "trigger": {"workflow_id": f"flow {provider}", "inputs": {"key": key}},
            "metadata": {"number": number, "group": "b"},
            "tags": [],
        }
        entry, said = Registration(provider, "", number, asked, mark=mark_of(0)), set[int]()
        for _ in range(self.chance.choice([1, 2])):
            status, answer = await self._start(asked, key)
            self.life.say("triggered", key=key, status=status)
            if status in (200, 201):
                entry.provider_run_id = answer["provider_run_id"]
                entry.body = {**asked, "provider_run_id": entry.provider_run_id}
                self._accepted(entry, status, answer)
            elif entry.run_id is not None:
                self.life.faults.append(f"{entry.run_id} was started, and asked again the answer was {status} {answer}")
            said.add(status)
            await self._sleep(self.chance.uniform(0, 60))
        self.triggered[key] = 201 if entry.run_id is not None else max(said)
        if entry.run_id is not None:
            self.registrations.append(entry)

    async def _start(self, body: Any, key: str) -> tuple[int, Any]:
        while True:
            status, answer = await self.life.ask_again("POST", "/v1/runs", body, **{"Idempotency-Key": key})
            if status not in (503, 429) and not (status == 409 and "Idempotency-Key" in str(answer)):
                return status, answer
            await self._sleep(5)

    def _an_open_run(self, *connections: str) -> Registration | None:
        state, chosen = self.life.sandbox.state, []
        for entry in self.registrations:
            run = self.life.theirs(entry)
            is_open = run is not None and not state.snapshot(run).status.is_settled and entry.deadline_s is None
            if is_open and entry.is_done and entry.removed_after is None and entry.connection in connections:
                chosen.append(entry)
        return self.chance.choice(chosen) if chosen else None

    async def _poll_now(self) -> None:
        if entry := self._an_open_run(*self.life.connections):
            asked_at_s = self.life.now_s
            await self.life.ask_until("POST", f"/v1/runs/{entry.run_id}/poll")
            self.polled_s.append((asked_at_s, self.life.now_s))

    async def _wait(self) -> None:
        if entry := self._an_open_run(*self.life.connections):
            await self.life.ask_until("GET", f"/v1/runs/{entry.run_id}/wait?timeout={10 if self.life.pace == 1 else 1}")

    async def _cancel(self) -> None:
        if (entry := self._an_open_run("retab")) is None:
            return
        asked_at_s = self.life.now_s
        status, answer = await self.life.ask_until("POST", f"/v1/runs/{entry.run_id}/cancel")
        self.polled_s.append((asked_at_s, self.life.now_s))
        run, state = self.life.theirs(entry), self.life.sandbox.state
        is_asked = (entry.provider, entry.provider_run_id) in self.life.cancels
        if status == 202 and not is_asked and run is not None and not state.snapshot(run).status.is_settled:
            self.life.faults.append(f"{entry.run_id} was to be cancelled, and the provider was not asked: {answer}")

    async def _remove(self) -> None:
        if (entry := self._an_open_run(*self.life.connections)) is None:
            return
        entry.removed_after = ""
        status, answer = await self.life.ask_until("DELETE", f"/v1/runs/{entry.run_id}")
        if status not in (204, 404):  # 404: the first answer was lost
            self.life.faults.append(f"{entry.run_id} cannot be removed: {status} {answer}")
        _, newest = await self.life.ask_until("GET", "/v1/events?order=newest&limit=1")
        entry.removed_after = newest["data"][0]["id"] if newest["data"] else ""
        self.life.say("removed", run=entry.run_id)


def mark_of(number: int) -> str:
    """A word that the output of this run holds, and no other."""
    return f"mark-{number:05d}."
