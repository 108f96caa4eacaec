"""Several daemons on one PostgreSQL, the sandbox they watch, and the receiver where everything is counted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.domain.encryption import new_key
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.sandbox import Received, Receiver, Sandbox, Scenario
from tests.support.daemon_process import DaemonProcess

RETRIES = ["200ms", "500ms", *["1s"] * 40]
FAULTS = ("worker.failed", "poll.crashed", "delivery.crashed", "chore.failed")


@dataclass
class Cluster:
    """Nodes with their sandbox and receiver. `expected`: the outcome of every registered run, by id."""

    sandbox: Sandbox
    receiver: Receiver
    nodes: list[DaemonProcess]
    expected: dict[str, str] = field(default_factory=dict)

    async def watch(self, at: DaemonProcess, scenarios: Sequence[Scenario]) -> list[str]:
        """Register runs in one batch at one node; their ids."""
        wanted = []
        for number, scenario in enumerate(scenarios):
            provider = self.sandbox.providers[number % len(self.sandbox.providers)]
            run_id = self.sandbox.add_run(provider, scenario=scenario)
            wanted.append({"connection": provider, "provider_run_id": run_id})
        answer = await at.ask("POST", "/v1/runs/batch", {"runs": wanted})
        ids = [str(item["run"]["id"]) for item in answer["data"]]
        self.expected |= {run_id: scenario.outcome for run_id, scenario in zip(ids, scenarios, strict=True)}
        return ids

    def finished(self, received: Sequence[Received]) -> set[str]:
        """The runs whose finish was taken."""
        return {one.event["data"]["run"]["id"] for one in received if one.type == "run.finished" and one.status == 204}  # type: ignore[index,call-overload]

    async def all_finished(self, timeout_s: float) -> None:
        """Until the receiver has taken the finish of every run."""
        await self.receiver.wait_for(lambda got: self.finished(got) >= set(self.expected), timeout_s)

    async def judge(self, at: DaemonProcess) -> None:
        """Nothing was lost or recorded twice, no sequence has a gap, each event has one body, and nothing crashed."""
        for state in ("pending", "exhausted", "discarded"):
            await at.eventually(f"/v1/deliveries?state={state}&limit=1", lambda answer: answer["data"] == [])
        events_by_run: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        feed = [event for event in await at.all_events() if event["type"].startswith("run.")]
        for event in feed:
            events_by_run[event["data"]["run"]["id"]].append(event)
        assert set(events_by_run) == set(self.expected)
        for run_id, events in events_by_run.items():
            assert [event["data"]["sequence"] for event in events] == list(range(1, len(events) + 1))
            finishes = [event for event in events if event["type"] == "run.finished"]
            assert [event["data"]["run"]["status"] for event in finishes] == [self.expected[run_id]]
            assert events[-1] is finishes[0]
        bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        for one in self.receiver.received:
            assert one.verified
            bodies[one.id].add(one.body)
        assert {event["id"] for event in feed} <= set(bodies)
        assert all(len(variants) == 1 for variants in bodies.values())
        for node in self.nodes:
            assert [line for line in node.log_lines() if line["event"] in FAULTS] == []


def freeze(node: DaemonProcess) -> None:
    """SIGSTOP."""
    os.kill(node.pid, signal.SIGSTOP)


def thaw(node: DaemonProcess) -> None:
    """SIGCONT."""
    os.kill(node.pid, signal.SIGCONT)


@asynccontextmanager
async def start_cluster(folder: Path, urls: Sequence[str], *, lease: str | None = None) -> AsyncIterator[Cluster]:
    """One node for each URL of the same database, all with the same settings, all counted by each other."""
    async with Sandbox() as sandbox, Receiver() as receiver:
        secret, key = new_secret(), new_key()
        receiver.add_secret(secret)
        nodes = []
        for number, url in enumerate(urls):
            home = folder / f"node-{number}"
            home.mkdir()
            node = DaemonProcess(home, url, secrets={"key": key}, delivery={"retry_schedule": RETRIES})
            if lease is not None:
                node.config["database"]["lease"] = lease
            for provider in sandbox.providers:
                node.add_connection(provider, provider, sandbox.url(provider))
            node.add_endpoint("app", receiver.url(), secret=secret)
            nodes.append(node)
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            for node in nodes:
                await node.eventually("/v1/connections", lambda answer: all_share(answer, len(nodes)))
            yield Cluster(sandbox, receiver, nodes)
        finally:
            for node in nodes:
                await node.__aexit__()


def all_share(answer: Any, count: int) -> bool:
    """True if the node knows that `count` nodes share the limits."""
    return all(connection["state"]["limits_shared_by_nodes"] == count for connection in answer["data"])
