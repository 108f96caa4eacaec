"""Every figure that the performance claims rest on, within ten minutes; writes docs/performance.md.

Each figure is a ratio to a raw baseline that was measured in the same run, because times depend on the machine. A row
that fails is shown as not measured with its reason, and the exit code is 1. A part measures as many rounds as fit into
its time, one at least: on a slow machine the medians are of fewer rounds, and the page is written all the same.
`--quick` measures one round with small loads: rougher figures, in two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import platform
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count as count_up
from pathlib import Path

import aiohttp

from benchmarks import growth, polls, register, storm, syscalls
from benchmarks.events import work_off
from benchmarks.harness import (
    NEW_RUN,
    NORMAL,
    TOKEN,
    Peers,
    RunningDaemon,
    TimedPeers,
    connection,
    daemon,
    endpoint,
    in_an_hour,
    insert_runs,
    slow_server,
)
from benchmarks.journey import NUMBERS, Journey, burst, measure, new_run, post, raw, steady
from benchmarks.performance_page import Figure, write_page
from benchmarks.pipeline import measure_raw
from bridge.domain import transition
from bridge.domain.clock import SystemClock
from bridge.domain.ids import new_id
from bridge.domain.run import RunError, RunStatus
from bridge.store import runs
from bridge.store.database import Database
from bridge.store.transaction import Tx

SECRET = f"whsec_{'A' * 43}="
RATES = (10.0, 50.0, 200.0)
STEADY_S = 4.0
Load = Callable[[RunningDaemon, TimedPeers], Awaitable[Journey]]


@dataclass
class Table:
    """The figures so far, by row; `scale` shrinks the loads, `until` is when the part's time is used up (monotonic)."""

    rounds: int
    scale: float
    until: float = 0.0
    figures: dict[str, Figure] = field(default_factory=lambda: defaultdict(Figure))
    failed: list[str] = field(default_factory=list)

    def note(self, row: str, ours: float, baseline: float | None = None, *, normal: float | None = None) -> None:
        """Add one round's value of a row, with those of the baseline and of the daemon without waiting for the disk."""
        self.figures[row].add(ours, baseline, normal)
        ratio = f"  ÷ {baseline:.4g} = {ours / baseline:.2f}" if baseline else ""
        print(f"{row:60} {ours:10.4g}{ratio}", flush=True)

    def each_round(self, most: int = 100) -> Iterator[int]:
        """The numbers of the rounds, `most` at most: the first, and those for which there is time."""
        longest_s = 0.0
        for number in range(min(self.rounds, most)):
            began_at = time.monotonic()
            if number and began_at + longest_s > self.until:
                return
            yield number
            longest_s = max(longest_s, time.monotonic() - began_at)

    def size(self, count: int, step: int = 100) -> int:
        return max(int(count * self.scale) // step * step, step)


def note_journey(table: Table, load: str, ours: Journey, least: Journey, normal: Journey | None) -> None:
    """Add what a load showed of the daemon, of the least program, and of the daemon without waiting for the disk."""
    lost = ours.lost + least.lost + (normal.lost if normal else 0)
    assert not lost, f"{lost} webhooks did not arrive"
    names = ("p50", "p99", "cpu") if load.endswith("/s") else ("per_s", "tenth_s", "cpu")
    for name in names:
        value = normal and getattr(normal, name)
        table.note(f"{load}: {name}", getattr(ours, name), getattr(least, name), normal=value)


def loads_of(table: Table, *, on_postgres: bool) -> dict[str, Load]:
    """The loads by name: steady ones, and bursts singly and in batches."""
    seconds, count = STEADY_S * table.scale, table.size(3_000 if on_postgres else 4_000, 1_000)
    where, rates, batches = ("PostgreSQL, ", RATES[1:], (1,)) if on_postgres else ("", RATES, (1, 1_000))
    return {
        **{f"{where}{rate:g}/s": functools.partial(steady, rate=rate, seconds=seconds) for rate in rates},
        **{f"{where}burst, {each} a request": functools.partial(burst, runs=count, batch=each) for each in batches},
    }


async def journeys(table: Table, folder: Path, *, database: str | None = None, least: str | None = None) -> None:
    """Each load on each server in turn; `least`: the database of the least program, if it is on PostgreSQL, too.

    Without waiting for the disk in the first round only.
    """
    peers, loads = TimedPeers(), loads_of(table, on_postgres=database is not None)
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(peers.serve())
        config = connection(url) + endpoint(url)
        normal: dict[str, Journey] = {}
        if database is None:
            async with daemon(_made(folder / "normal"), config, program=NORMAL) as server:
                await burst(server, peers, 200, 1)
                normal = {name: await load(server, peers) for name, load in loads.items()}
        base = await stack.enter_async_context(raw(_made(folder / "raw"), url, database=least))
        ours = await stack.enter_async_context(daemon(_made(folder / "ours"), config, database=database))
        for server in (base, ours):
            await burst(server, peers, 200, 1)
        for number in table.each_round(2 if database else 100):
            for name, load in loads.items():
                expected, found = await load(base, peers), await load(ours, peers)
                note_journey(table, name, found, expected, normal.get(name) if number == 0 else None)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def sqlite_journeys(table: Table) -> None:
    """Every load on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        await journeys(table, Path(folder))


async def postgres_rows(table: Table) -> None:
    """PostgreSQL from a wheel; then two nodes on one database."""
    from tests.support.postgres import Postgres

    server = Postgres()
    await asyncio.to_thread(server.start)
    try:
        with tempfile.TemporaryDirectory() as folder:
            ours, least = server.create_database(), server.create_database()
            await journeys(table, Path(folder), database=ours, least=least)
        await two_nodes(table, server.create_database())
    finally:
        await asyncio.to_thread(server.stop)


async def two_nodes(table: Table, database: str) -> None:
    """A burst by one node and by two; the clients send to both in turn."""
    peers, runs_count = TimedPeers(), table.size(3_000, 1_000)
    with tempfile.TemporaryDirectory() as name:
        async with peers.serve() as url, contextlib.AsyncExitStack() as stack:
            config = connection(url) + endpoint(url)
            first = await stack.enter_async_context(daemon(_made(Path(name) / "1"), config, database=database))
            await burst(first, peers, 200, 1)
            alone = await burst(first, peers, runs_count, 1)
            second = await stack.enter_async_context(daemon(_made(Path(name) / "2"), config, database=database))
            await asyncio.sleep(3.0)  # until both have shared the limits
            names, start = [f"r{next(NUMBERS)}" for _ in range(runs_count)], time.monotonic()
            todo = iter(names)

            async def produce(server: RunningDaemon) -> None:
                for each in todo:
                    await post(server, "/v1/runs", new_run(each))

            producing = asyncio.gather(*(produce(server) for server in (first, second) for _ in range(16)))
            both = await measure(first, peers, dict.fromkeys(names, start), producing)
            table.note("PostgreSQL, two nodes: burst", both.per_s, alone.per_s)


async def ten_endpoints(table: Table) -> None:
    """Eight healthy endpoints beside one that answers after ten seconds and one that refuses, at 20/s."""
    peers = TimedPeers()
    with tempfile.TemporaryDirectory() as name:
        async with peers.serve() as url, slow_server() as slow, raw(_made(Path(name) / "raw"), url) as least:
            base = await steady(least, peers, 20.0, 8 * table.scale)
            urls = [f"{url}/hooks", *[f"{url}/more"] * 7, f"{slow}/hooks", "http://127.0.0.1:9/hooks"]
            config = connection(url) + "".join(
                f'[endpoints.e{n}]\nurl = "{each}"\nsecret = "{SECRET}"\nevents = ["run.finished"]\n'
                for n, each in enumerate(urls)
            )
            async with daemon(_made(Path(name) / "ours"), config) as ours:
                await burst(ours, peers, 20, 1)
                found = await steady(ours, peers, 20.0, 8 * table.scale)
    table.note("ten endpoints, one slow, one dead, 20/s: p50", found.p50, base.p50)
    table.note("ten endpoints, one slow, one dead, 20/s: p99", found.p99, base.p99)


async def killed(table: Table) -> None:
    """kill -9 in the middle of a burst, then a start: what was accepted and lost, and what arrived twice."""
    peers, accepted = TimedPeers(), table.size(3_000, 1_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with peers.serve() as url:
            config = connection(url) + endpoint(url)
            async with daemon(folder, config) as ours:
                for start in range(0, accepted, 1_000):
                    await post(ours, "/v1/runs/batch", {"runs": [new_run(f"k{start + n}") for n in range(1_000)]})
                await peers.all_received(accepted // 5)
                os.kill(ours.pid, signal.SIGKILL)
                await asyncio.sleep(0.3)
            before, received_before = set(peers.arrived), peers.received
            async with daemon(folder, config):
                ready_at = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(60):
                        while len(peers.arrived) < accepted:  # noqa: ASYNC110 - some arrive twice, so a count says nothing
                            await asyncio.sleep(0.05)
                await asyncio.sleep(1.0)
    later = [at for run, at in peers.arrived.items() if run not in before]
    assert received_before < accepted, "the burst was over before the kill"
    table.note("kill -9 in mid-burst: lost", accepted - len(peers.arrived))
    table.note("kill -9 in mid-burst: arrived twice", peers.received - len(peers.arrived))
    table.note("kill -9 in mid-burst: quiet after the start, s", max(0.0, min(later) - ready_at))


async def calls(table: Table) -> None:
    """Commits and pages of WAL per event, counted by strace."""
    if shutil.which("strace") is None:
        raise FileNotFoundError("strace is not installed")
    rate, seconds = 10.0, 6.0
    peers = TimedPeers()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with peers.serve() as url:
            async with raw(folder, url) as server:
                least = await syscalls.trace(server, peers, rate, seconds, folder / "raw.strace")
            async with daemon(folder, connection(url) + endpoint(url)) as server:
                ours = await syscalls.trace(server, peers, rate, seconds, folder / "ours.strace")
    for kind in ("commits", "WAL pages"):
        table.note(f"10/s: {kind} per event", ours[kind] / (rate * seconds), least[kind] / (rate * seconds))


async def all_due(table: Table) -> None:
    """100,000 deliveries due at the same instant for one endpoint, default settings, a quick receiver."""
    peers, count = Peers(), table.size(100_000, 5_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with peers.serve() as url:
            config = f'[endpoints.app]\nurl = "{url}/hooks"\nsecret = "{SECRET}"\n'
            async with daemon(folder, config):
                pass  # makes the database and the endpoint
            await record_ends(f"sqlite:///{folder}/runbridge.db", count)
            async with daemon(folder, config):
                started, seconds = time.monotonic(), 20 * table.scale + 2
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(peers.all_received(count), seconds)
                table.note("100,000 due at once: per second", peers.received / (time.monotonic() - started))


async def record_ends(url: str, count: int) -> None:
    """Record `count` runs that ended, with their events and deliveries, all due now."""

    def record(tx: Tx) -> None:
        new = [replace(NEW_RUN, id=new_id("run"), provider_run_id=f"d{next(NUMBERS)}") for _ in range(2_500)]
        ended = [
            runs.RunChange(run, decision)
            for run in runs.insert_runs(tx, new)
            if (decision := transition.settle(run, RunStatus.LOST, RunError("gone"), now=tx.now))
        ]
        runs.record_decisions(tx, ended, node=None, keep_lease=False)

    database = Database(url, SystemClock())
    await database.open()
    try:
        for _ in range(0, count, 2_500):
            await database.write(record)
    finally:
        await database.close()


async def memory(table: Table) -> None:
    """Resident memory at rest, and after 10,000 overdue runs were polled at once."""
    figures = await storm.measure(table.size(10_000), 30.0)
    table.note("memory at rest, MB", figures.rest / 1e6)
    table.note("memory after a storm of 10,000, MB", figures.after / 1e6)


async def registrations(table: Table) -> None:
    """`POST /v1/runs` beside a handler that does nothing, and batches of 1,000."""
    numbers, count = count_up(), table.size(4_000)
    with tempfile.TemporaryDirectory() as name:
        async with (
            register.nothing() as nothing,
            daemon(_made(Path(name) / "ours"), register.CONFIG) as ours,
            daemon(_made(Path(name) / "normal"), register.CONFIG, program=NORMAL) as normal,
        ):
            for _ in table.each_round():
                noop, own, fast = [
                    (await register.measure(each.pid, count, register.post_one(each, numbers))).per_s
                    for each in (nothing, ours, normal)
                ]
                table.note("POST /v1/runs: per second", own, noop, normal=fast)
                batch, fast = [
                    (await register.measure(each.pid, 8, register.post_batch(each, numbers), concurrency=4)).per_s
                    for each in (ours, normal)
                ]
                table.note("batch registration: runs per second", batch * 1000, normal=fast * 1000)


async def waiting_events(table: Table) -> None:
    """Runs that wait in the database, beside the raw pipeline."""
    count = table.size(5_000, 1_000)
    for _ in table.each_round(2):
        peers = Peers()
        async with peers.serve() as url:
            least = await measure_raw("events", url, count)
            peers.received = 0
            ours, _ = await work_off(url, peers, count)
        table.note("events that wait in the database: per second", ours.per_s, least.per_s)


async def quiet_polls(table: Table) -> None:
    """Polls without change beside a bare GET loop."""
    for _ in table.each_round(2):
        peers = polls.StillRunning(polls.BARE + 3_000)
        async with peers.serve() as url:
            bare = await measure_raw("polls", url, polls.BARE, polls.IN_FLIGHT)
            ours, _, _ = await polls.measure(url, peers, 1_000, 6 * table.scale)
        table.note("polls without change: per second", ours.per_s, bare.per_s)
        table.note("polls without change: CPU, us", ours.cpu_us, bare.cpu_us)


async def start_up(table: Table) -> None:
    """From the start of the process to /readyz with 1,000,000 runs watched."""
    with tempfile.TemporaryDirectory() as name:
        await insert_runs(f"sqlite:///{name}/runbridge.db", table.size(1_000_000, 5_000), due_at=in_an_hour())
        for _ in table.each_round():
            started = time.monotonic()
            async with daemon(Path(name), connection("http://127.0.0.1:9") + endpoint("http://127.0.0.1:9")) as ours:
                await growth.ready(ours)
                table.note("start with 1,000,000 runs, s", time.monotonic() - started)


async def command_line(table: Table) -> None:
    """`runbridge --help` and `runbridge runs list`, processes of their own, beside a Python that does nothing."""
    with tempfile.TemporaryDirectory() as name:
        async with daemon(Path(name), connection("http://127.0.0.1:9")) as ours:
            env = {**os.environ, "RUNBRIDGE_URL": ours.url, "RUNBRIDGE_TOKEN": TOKEN}
            for _ in range(5):
                nothing = await run_time([sys.executable, "-c", "pass"], env)
                program = [sys.executable, "-m", "bridge"]
                table.note("runbridge --help, s", await run_time([*program, "--help"], env), nothing)
                table.note("runbridge runs list, s", await run_time([*program, "runs", "list"], env), nothing)


async def run_time(command: list[str], env: dict[str, str]) -> float:
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0, command
    return time.monotonic() - started


async def many_endpoints(table: Table) -> None:
    """The CPU of an event with 100 endpoints of which one wants it, beside one endpoint."""
    found = []
    for count in (1, 100):
        peers = TimedPeers()
        with tempfile.TemporaryDirectory() as name:
            async with peers.serve() as url:
                config = connection(url) + endpoint(url) + growth.other_endpoints(url, count - 1)
                async with daemon(Path(name), config) as ours:
                    await burst(ours, peers, 500, 1)
                    found.append((await burst(ours, peers, table.size(3_000, 1_000), 1)).cpu)
    table.note("100 endpoints of which one wants the event: CPU", found[1], found[0])


PARTS: Mapping[Callable[[Table], Awaitable[None]], float] = {  # with the seconds that each may take
    command_line: 10,
    quiet_polls: 25,
    registrations: 35,
    waiting_events: 25,
    calls: 20,
    memory: 40,
    ten_endpoints: 30,
    killed: 15,
    many_endpoints: 20,
    all_due: 45,
    start_up: 60,
    sqlite_journeys: 165,
    postgres_rows: 80,
}


async def main(table: Table, names: list[str], page: Path | None) -> int:
    """Measure every part, or those named, and write the page."""
    started = time.monotonic()
    for part, budget_s in PARTS.items():
        if names and part.__name__ not in names:
            continue
        print(f"-- {part.__name__}, after {time.monotonic() - started:.0f} s", flush=True)
        try:
            table.until = time.monotonic() + budget_s
            async with asyncio.timeout(2 * budget_s + 30):
                await part(table)
        except Exception as error:  # noqa: BLE001 - one row that cannot be measured must not hide the others
            traceback.print_exc()
            table.failed.append(f"{part.__name__}: {type(error).__name__} {error}")
    minutes = (time.monotonic() - started) / 60
    if page is not None:
        facts = {
            "measured": f"{datetime.now(UTC):%Y-%m-%d}, in {minutes:.0f} minutes, {table.rounds} rounds",
            "machine": f"{os.cpu_count()} cores, {_memory_gb():.0f} GB, {platform.system()} {platform.machine()}",
            "versions": f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, aiohttp {aiohttp.__version__}",
        }
        write_page(page, facts, table.figures, table.failed)
        print(f"wrote {page}")
    print(f"{minutes:.1f} minutes; not measured: {'; '.join(table.failed) or 'nothing'}")
    return 1 if table.failed else 0


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(part.__name__ for part in PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, small loads, no page")
    arguments = parser.parse_args()
    is_whole = not (arguments.quick or arguments.parts)
    wanted = Table(1, 0.2) if arguments.quick else Table(arguments.rounds, 1.0)
    sys.exit(asyncio.run(main(wanted, arguments.parts, Path("docs/performance.md") if is_whole else None)))
