"""The programs of a life that read: they follow the feed, and compare what the API says."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tests.simulation.operators import Operators
from tests.simulation.world import Feed, Registration

if TYPE_CHECKING:
    from tests.simulation.world import World

FEED_EVERY_S: Final = (10.0, 90.0)


class Readers(Operators):
    """What they have read, and of which runs."""

    def __init__(self, life: World) -> None:
        super().__init__(life)
        self.registrations: list[Registration] = []
        self.feed = Feed()
        self._reading = asyncio.Lock()  # a page that two had asked for would be there twice

    async def follow_feed(self) -> None:
        """Read the feed as it grows, and compare what the API says in between."""
        while True:
            await self.read_feed()
            await self.chance.choice([self._look_back, self._look_at_owed, self._look_at_backlog])()
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

    async def _look_at_owed(self) -> None:
        """What waits to be sent is kept whole: every attempt of it, its event, and all events of its run."""
        life, path = self.life, "/v1/deliveries?state=pending&limit=200"
        _, page = await life.ask_until("GET", path)
        for each in page["data"]:
            if [one["number"] for one in each["attempts"]] != [*range(1, each["attempt_count"] + 1)]:
                life.faults.append(f"attempts are missing of what is to be sent: {each}")
        if not page["data"]:
            return
        chosen = self.chance.choice(page["data"][-5:])  # of the oldest
        run_id, event_id = chosen["run_id"], chosen["event_id"]
        found = {event_id: await life.ask_until("GET", f"/v1/events/{event_id}")}
        if run_id is not None and run_id not in self._removed():
            found[run_id] = await life.ask_until("GET", f"/v1/runs/{run_id}")
        _, page = await life.ask_until("GET", path)
        if run_id in self._removed() or chosen["id"] not in {each["id"] for each in page["data"]}:
            return
        life.faults += [f"{it} is to be sent and is not there" for it, (status, _) in found.items() if status != 200]
        status, run = found.get(run_id, (0, None))
        if status == 200:
            numbers = [event["data"]["sequence"] for event in run["events"]]
            if numbers != [*range(1, len(numbers) + 1)] or event_id not in {event["id"] for event in run["events"]}:
                life.faults.append(f"{event_id} is to be sent, and of {run_id} only the events {numbers} are there")

    async def _look_at_backlog(self) -> None:
        """Where nothing is recorded or delivered meanwhile, the summary counts what waits."""
        paths = ("/v1/deliveries?state=pending&limit=200", "/v1/deliveries?limit=1")

        async def read() -> list[dict[str, str]]:
            pages = [await self.life.ask_until("GET", path) for path in paths]
            return [{each["id"]: each["endpoint_id"] for each in page["data"]} for _, page in pages]

        before, read_at_s = await read(), self.life.now_s
        await asyncio.sleep(max(3 * self.life.pace, 1.5))  # counts are kept for a second
        _, summary = await self.life.ask_until("GET", "/v1/summary")
        if before != await read() or len(before[0]) == 200:
            return
        counted_at = datetime.fromisoformat(summary["counted_at"]).timestamp()
        if all(at_s < read_at_s for at_s in self.life.clock.times_of(counted_at)):
            return  # a count that takes long is shown until the next one is there
        said, count = summary["deliveries"], Counter(before[0].values())
        is_wrong = [name for name, states in said["by_endpoint"].items() if states.get("pending", 0) != count[name]]
        if said["by_state"].get("pending", 0) != count.total() or is_wrong:
            self.life.faults.append(f"what waits at each endpoint is {count}, and the summary says {said}")

    def _removed(self) -> set[str | None]:
        """The ids of the runs that are removed, or are just being removed."""
        return {entry.run_id for entry in self.registrations if entry.removed_after is not None}

    def ended_at_s(self, entry: Registration) -> float:
        """When a run ended, or a little earlier: retention counts from its end at the provider, if that is known."""
        from_s, theirs = self.feed.finished_at_s[entry.run_id or ""], self.life.theirs(entry)
        if theirs is None:
            return from_s
        return min(from_s, theirs.created_s + (self.life.sandbox.state.snapshot(theirs).finished_after_s or 0.0))

    async def read_feed(self) -> None:
        """Read on to the end of the feed."""
        async with self._reading:
            await self._read_on(self.feed)

    async def _read_on(self, feed: Feed) -> None:
        while True:
            asked_at_s = self.life.now_s
            after = f"&after={feed.after}" if feed.after else ""
            status, page = await self.life.ask_until("GET", f"/v1/events?limit=200{after}")
            if status != 200:
                is_deleted = self.life.keeps_s is not None and self._may_be_deleted(feed.after)
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

    def _may_be_deleted(self, event_id: str | None) -> bool:
        """Whether retention may have deleted this event: its run is old, removed, or none; then the wall clock counts."""
        event = next((each for each in self.feed.events if each["id"] == event_id), None)
        run = event and event["data"]["run"]
        if event is None or run is None or run["id"] in self._removed():
            return event is not None
        entry = next((each for each in self.registrations if each.run_id == run["id"]), None)
        is_over = entry is not None and entry.run_id in self.feed.finished_at_s
        return is_over and self.life.now_s - self.ended_at_s(entry) > (self.life.keeps_s or 0) - 60  # type: ignore[arg-type]
