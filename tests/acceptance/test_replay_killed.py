"""`kill -9` in the middle of a replay: every event of the selection arrives, and each is made due once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bridge.sandbox import Scenario
from tests.support.daemon_setup import daemon_setup

RUNS = 60
KILLS = 3


async def test_a_replay_that_is_killed_again_and_again_ends_with_every_event(database_url: str, tmp_path: Path) -> None:
    delivery = {"retry_schedule": ["200ms"] * 20}
    async with daemon_setup(tmp_path, "dify", database_url=database_url, endpoints=[], delivery=delivery) as (
        daemon,
        sandbox,
        receiver,
    ):
        daemon.config["connections"]["dify"]["max_interval"] = "200ms"
        async with daemon:
            ids = [sandbox.add_run("dify", scenario=Scenario(duration_s=0.1)) for _ in range(RUNS)]
            wanted = [{"connection": "dify", "provider_run_id": run_id} for run_id in ids]
            await daemon.ask("POST", "/v1/runs/batch", {"runs": wanted})
            await daemon.eventually("/v1/events?type=run.finished&limit=200", lambda feed: len(feed["data"]) == RUNS)
            feed = {event["id"] for event in await daemon.all_events(type="run.finished")}

            receiver.add_secret(daemon.add_endpoint("late", receiver.url(), events=["run.finished"]))
            await daemon.reload()
            selection = {"since": "2020-01-01T00:00:00Z", "status": "missed", "rate": 10}
            counted = await daemon.ask("POST", "/v1/endpoints/late/replay", {**selection, "dry_run": True})
            assert counted == {"count": RUNS}
            begun = await daemon.ask("POST", "/v1/endpoints/late/replay", selection, status=202)
            seen = []
            for number in range(1, KILLS + 1):
                await receiver.wait_for(lambda got, least=number * RUNS // 6: len(got) >= least, 90)
                await daemon.kill()
                await daemon.restart()
                seen.append((await daemon.ask("GET", f"/v1/replays/{begun['id']}"))["replayed"])
            assert seen == sorted(seen)
            assert 0 < seen[0] < seen[-1] < RUNS, "it was killed in the middle"
            await daemon.ask("GET", f"/v1/replays/{begun['id']}")
            done = await daemon.eventually(
                f"/v1/replays/{begun['id']}", lambda replay: replay["state"] == "done", timeout_s=60
            )
            assert (done["count"], done["replayed"]) == (RUNS, RUNS)
            await receiver.wait_for(lambda got: {one.id for one in got if one.status == 204} == feed, 60)
            await daemon.eventually(
                "/v1/deliveries?state=pending&limit=1", lambda left: left["data"] == [], timeout_s=60
            )
            made = await daemon.ask("GET", "/v1/deliveries?endpoint=late&limit=200")
            assert Counter(delivery["event_id"] for delivery in made["data"]) == dict.fromkeys(feed, 1)
            assert all(attempt["manual"] for delivery in made["data"] for attempt in delivery["attempts"])
            await daemon.stop()
        assert all(one.verified for one in receiver.received)
        assert len({(one.id, one.body) for one in receiver.received}) == RUNS
