"""System calls of the server for one run's journey at a steady rate: the daemon beside the least program.

strace counts them over the last seconds of a steady load (benchmarks/journey.py): commits are `fdatasync` of the
write-ahead log, pages are writes of 4,096 bytes to it, temporary files are those that SQLite creates. Counts do not
depend on the speed of the machine, and hardly on what else it does.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.harness import RunningDaemon, TimedPeers, connection, daemon, endpoint
from benchmarks.journey import CALM_S, burst, raw, steady

CALLS = "fdatasync,fsync,futex,pwrite64,openat,epoll_wait,epoll_pwait"
LINE = re.compile(r"(\w+)\((?:\d+<([^>]*)>)?(.*)")
PAGE = re.compile(r", 4096, \d+\) += 4096$")
WARM_UP_RUNS = 20


def classify(line: str) -> str | None:
    """The kind of call in one line of strace's output; None for one that is not counted."""
    found = LINE.search(line)
    if found is None or "resumed>" in line:
        return None
    call, file, rest = found[1], found[2] or "", found[3]
    match call:
        case "fdatasync" | "fsync":
            return "commits" if file.endswith("-wal") else "other syncs"
        case "pwrite64":
            return "WAL pages" if file.endswith("-wal") and PAGE.search(rest) else None
        case "openat":
            return "temporary files" if "etilqs_" in rest else None
        case "epoll_wait" | "epoll_pwait":
            return "loop turns"
        case _:
            return call


async def trace(server: RunningDaemon, peers: TimedPeers, rate: float, seconds: float, output: Path) -> Counter[str]:
    """Count while `rate * seconds` runs make their journey."""
    await burst(server, peers, WARM_UP_RUNS, 1)
    command = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", str(output), "-p", str(server.pid)]
    strace = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    await asyncio.sleep(CALM_S)
    await steady(server, peers, rate, seconds)
    strace.terminate()
    await strace.wait()
    return Counter(kind for line in output.read_text().splitlines() if (kind := classify(line)) is not None)


async def main(rate: float, seconds: float) -> None:
    """Print the counts per run."""
    if shutil.which("strace") is None:
        print("not measured: strace is not installed")
        return
    peers, runs = TimedPeers(), int(rate * seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with peers.serve() as url:
            async with raw(folder, url) as baseline:
                least = await trace(baseline, peers, rate, seconds, folder / "raw.strace")
            async with daemon(folder, connection(url) + endpoint(url)) as ours:
                found = await trace(ours, peers, rate, seconds, folder / "daemon.strace")
    print(f"calls for each of {runs} runs at {rate:g}/s    raw   daemon")
    for kind in sorted(least | found):
        print(f"{kind:36} {least[kind] / runs:7.2f} {found[kind] / runs:8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10.0, help="runs per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rate, arguments.seconds))
