"""Latency from the provider's response that a run has finished to the arrival of the webhook, at a steady rate.

Finished runs are in the database, their first polls due at equal distances: an open loop, whether or not the daemon
keeps up. The time begins before the provider's server (in this process) sends its response and ends when the receiver
has read the POST. It includes the first commit, the signature, the request, and delays of this process. The first
second is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks.harness import TimedPeers, connection, daemon, endpoint, insert_runs, percentile, read_usage
from bridge.domain.clock import SystemClock

START_S = 7.0  # until the first poll: time for the daemon to start
LEFT_OUT_S = 1.0
PATIENCE_S = 15.0


async def measure(rate: float, seconds: float) -> dict[str, float]:
    """Measure one rate on a new daemon."""
    count, peers = int(rate * seconds), TimedPeers()
    with tempfile.TemporaryDirectory() as folder:
        due_at, started_s = SystemClock().now() + timedelta(seconds=START_S), time.monotonic() + START_S
        await insert_runs(f"sqlite:///{folder}/runbridge.db", count, due_at=due_at, every_s=1 / rate)
        async with peers.serve() as url, daemon(Path(folder), connection(url) + endpoint(url)) as client:
            await asyncio.sleep(started_s - time.monotonic())
            before = read_usage(client.pid)
            try:
                await asyncio.wait_for(peers.all_received(count), seconds + PATIENCE_S)
            except TimeoutError:
                print(f"only {peers.received} of {count} arrived within {PATIENCE_S:g} s of the last poll")
            after = read_usage(client.pid)
    first = min(peers.shown.values()) + LEFT_OUT_S
    waits = [(at - peers.shown[run]) * 1000 for run, at in peers.arrived.items() if peers.shown[run] >= first]
    return {
        "counted": len(waits),
        "p50 ms": percentile(waits, 50),
        "p99 ms": percentile(waits, 99),
        "worst ms": max(waits),
        "cpu %": 100 * (after.cpu_s - before.cpu_s) / (after.at - before.at),
        "last poll late ms": (max(peers.shown.values()) - started_s - seconds) * 1000,
    }


async def main() -> None:
    """Print a line for each rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[50.0, 200.0], help="events per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="per rate")
    arguments = parser.parse_args()
    print(f"provider's response → webhook arrived, {arguments.seconds:g} s per rate")
    for rate in arguments.rates:
        found = await measure(rate, arguments.seconds)
        print(f"{rate:5.0f}/s  " + "  ".join(f"{name} {value:,.1f}" for name, value in found.items()))


if __name__ == "__main__":
    asyncio.run(main())
