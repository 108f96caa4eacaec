"""Measure 10,000 watched runs while nothing happens: CPU share of one core, memory, bytes written.

The daemon runs in its own process against fake providers, in two states: *resting*, with no poll due within the
window, and *steady*, with 33 polls a second (1,000 runs every 30 s, as many as 10,000 runs every five minutes). CPU is
user + system time over the window.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

from benchmarks.harness import RunningDaemon, daemon, read_usage
from bridge.sandbox import Sandbox, Scenario


async def register(client: RunningDaemon, sandbox: Sandbox, count: int) -> float:
    """Register `count` endless runs in batches; return the seconds it took."""
    ids = [sandbox.add_run("dibby", scenario=Scenario(duration_s=None)) for _ in range(count)]
    started = time.monotonic()
    for start in range(0, count, 1000):
        runs = [{"connection": "dibby", "provider_run_id": theirs} for theirs in ids[start : start + 1000]]
        async with client.http.post(f"{client.url}/v1/runs/batch", json={"runs": runs}) as answer:
            assert answer.status == 200, await answer.text()
    return time.monotonic() - started


async def settle_down(client: RunningDaemon) -> None:
    """Wait until every run has been polled once and the daemon is idle."""
    busy = True
    while busy:
        await asyncio.sleep(1)
        async with client.http.get(f"{client.url}/v1/runs?status=queued&limit=1") as answer:
            queued = (await answer.json())["data"]
        before = read_usage(client.pid)
        await asyncio.sleep(1)
        busy = bool(queued) or read_usage(client.pid).cpu_s - before.cpu_s > 0.1


async def measure(count: int, *, min_interval: str, window_s: float) -> dict[str, float]:
    """Measure one state: register, wait for the first polls, then read the usage over the window."""
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox() as sandbox, contextlib.AsyncExitStack() as stack:
            config = (
                f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{sandbox.url("dibby")}"\napi_key = "sandbox-key"\n'
                f'requests_per_second = 1000\nmax_in_flight = 32\nmin_interval = "{min_interval}"\nmax_interval = "{min_interval}"\n'
            )
            client = await stack.enter_async_context(daemon(Path(folder), config))
            empty = read_usage(client.pid)
            took_s = await register(client, sandbox, count)
            await settle_down(client)
            polls, before = len(sandbox.requests), read_usage(client.pid)
            await asyncio.sleep(window_s)
            after = read_usage(client.pid)
            return {
                "registered/s": count / took_s,
                "polls/s": (len(sandbox.requests) - polls) / window_s,
                "cpu %": 100 * (after.cpu_s - before.cpu_s) / (after.at - before.at),
                "written B/s": (after.written - before.written) / window_s,
                "rss MB": after.rss / 1e6,
                "rss per run B": (after.rss - empty.rss) / count,
            }


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--window", type=float, default=20.0, help="seconds")
    arguments = parser.parse_args()
    print(f"{arguments.runs} watched runs, window {arguments.window:g} s")
    for state, runs, interval in (("resting", arguments.runs, "30m"), ("steady", 1000, "30s")):
        found = await measure(runs, min_interval=interval, window_s=arguments.window)
        print(f"{state:8} " + "  ".join(f"{name} {value:,.2f}" for name, value in found.items()))


if __name__ == "__main__":
    asyncio.run(main())
