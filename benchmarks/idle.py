"""What 10,000 watched runs cost while nothing happens: CPU share of one core, memory, bytes written.

The daemon runs as a process of its own against pretended providers. Two states are measured:
*resting*, when no poll is due within the window, and *steady*: 33 polls a second, as many as 10,000 runs
make that are looked at once in five minutes (1,000 runs every 30 s). CPU is user + system time of the daemon from /proc, over the window.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import Daemon, daemon
from bridge.sandbox import Sandbox, Scenario


@dataclass(frozen=True, slots=True)
class Reading:
    """The daemon's own accounts at one moment."""

    at: float
    cpu_s: float
    written: int
    rss: int


def read(pid: int) -> Reading:
    """Seconds of CPU by the process's own clock (ticks are wrong by half where work comes in step with them).

    From /proc: bytes written to disk, bytes of memory.
    """
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Reading(time.monotonic(), time.clock_gettime(~pid << 3 | 2), int(io["write_bytes"]), rss)


async def register(client: Daemon, sandbox: Sandbox, count: int) -> float:
    """Register `count` endless runs in batches; seconds it took."""
    ids = [sandbox.add_run("dibby", scenario=Scenario(duration_s=None)) for _ in range(count)]
    started = time.monotonic()
    for start in range(0, count, 1000):
        runs = [{"connection": "dibby", "provider_run_id": theirs} for theirs in ids[start : start + 1000]]
        async with client.http.post(f"{client.url}/v1/runs/batch", json={"runs": runs}) as answer:
            assert answer.status == 200, await answer.text()
    return time.monotonic() - started


async def settle_down(client: Daemon) -> None:
    """Wait until every run has had its first look and the daemon has put them all back."""
    busy = True
    while busy:
        await asyncio.sleep(1)
        async with client.http.get(f"{client.url}/v1/runs?status=queued&limit=1") as answer:
            queued = (await answer.json())["data"]
        before = read(client.pid)
        await asyncio.sleep(1)
        busy = bool(queued) or read(client.pid).cpu_s - before.cpu_s > 0.1


async def measure(count: int, *, min_interval: str, window_s: float) -> dict[str, float]:
    """One state: register, wait for the first looks, then watch the daemon for the window."""
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox() as sandbox, contextlib.AsyncExitStack() as stack:
            config = (
                f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{sandbox.url("dibby")}"\napi_key = "sandbox-key"\n'
                f'requests_per_second = 1000\nmax_in_flight = 32\nmin_interval = "{min_interval}"\nmax_interval = "{min_interval}"\n'
            )
            client = await stack.enter_async_context(daemon(Path(folder), config))
            empty = read(client.pid)
            took_s = await register(client, sandbox, count)
            await settle_down(client)
            polls, before = len(sandbox.requests), read(client.pid)
            await asyncio.sleep(window_s)
            after = read(client.pid)
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
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=10_000)
    arguments.add_argument("--window", type=float, default=20.0, help="seconds")
    given = arguments.parse_args()
    print(f"{given.runs} watched runs, window {given.window:g} s")
    for state, runs, interval in (("resting", given.runs, "30m"), ("steady", 1000, "30s")):
        found = await measure(runs, min_interval=interval, window_s=given.window)
        print(f"{state:8} " + "  ".join(f"{name} {value:,.2f}" for name, value in found.items()))


if __name__ == "__main__":
    asyncio.run(main())
