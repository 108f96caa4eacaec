"""The journey of a run from `POST /v1/runs` to its webhook, beside the least program that does the same.

Every run has finished when it is registered, so it costs a request, a durable row, one GET, a durable transition with
its event, one signed POST and a durable attempt. The *raw* server below does just that (aiohttp; one sqlite3 connection in
one thread, WAL, synchronous=FULL; or three statements on PostgreSQL) and nothing else. Both servers run side by side in
processes of their own, against the producer, provider and receiver in this one, and get each load in turn: the ratios
hold on a noisy machine, the times do not.

A steady load is an open loop: the latency is the time from the intended start of the request to the arrival of the
webhook, whether or not the server keeps up. A burst sends as fast as its connections allow, singly or in batches of
1,000; its rate counts from the first request to the last webhook. CPU is that of the server per run, user + system.
Under three minutes; --quick under one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import asyncpg
from aiohttp import web
from yarl import URL

from benchmarks.harness import RunningDaemon, TimedPeers, connection, daemon, endpoint, percentile, read_usage
from benchmarks.pipeline import RawWriter, event_body, run, signed_headers, thin_client

IN_FLIGHT = 64  # as in the daemon's configuration
BATCH = 1_000
PRODUCERS = 32
WARM_UP_RUNS = 100
CALM_S = 0.5  # until the last attempt is recorded
PATIENCE_S = 60.0
NUMBERS = count()
Rows = dict[str, Sequence[object]]
Write = Callable[[Rows], Awaitable[None]]
POSTGRES_SCHEMA = """
CREATE TABLE runs (id text PRIMARY KEY, provider_run_id text UNIQUE, status text, sequence int, observed_at bigint);
CREATE TABLE events (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text UNIQUE, run_id text, sequence int,
  type text, created_at bigint, body bytea, UNIQUE (run_id, sequence));
CREATE TABLE deliveries (id text PRIMARY KEY, event_id text, state text, attempts int, next_attempt_at bigint);
CREATE INDEX due ON deliveries (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE TABLE attempts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, delivery_id text, number int, at bigint,
  status int, duration_ms int);
CREATE INDEX attempts_of ON attempts (delivery_id);
"""
POSTGRES_STEPS = {
    ("new run",): "INSERT INTO runs VALUES ($1, $2, 'queued', 0, NULL)",
    ("run", "event", "delivery"): (
        "WITH r AS (UPDATE runs SET status = $1, sequence = $2, observed_at = $3 WHERE id = $4), e AS (INSERT INTO events "
        "(id, run_id, sequence, type, created_at, body) VALUES ($5, $6, $7, $8, $9, $10)) INSERT INTO deliveries "
        "(id, event_id, state, attempts, next_attempt_at) VALUES ($11, $12, 'pending', 0, $13)"
    ),
    ("attempt", "delivered"): (
        "WITH a AS (INSERT INTO attempts (delivery_id, number, at, status, duration_ms) VALUES ($1, 1, $2, $3, $4)) "
        "UPDATE deliveries SET state = 'delivered', attempts = 1, next_attempt_at = NULL WHERE id = $5"
    ),
}


class LeastServer:
    """Registers, polls, sends and records, without checking anything."""

    def __init__(self, write: Write, peers_url: str, http: aiohttp.ClientSession) -> None:
        self._url, self._hook = peers_url, URL(f"{peers_url}/hooks")
        self._http = http
        self._write = write
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()

    async def register(self, request: web.Request) -> web.Response:
        given = json.loads(await request.read())
        runs = [(f"run_{next(NUMBERS):020}", each["provider_run_id"]) for each in given.get("runs", [given])]
        await asyncio.gather(*(self._write({"new run": row}) for row in runs))
        for row in runs:
            task = asyncio.create_task(self._watch(*row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return web.json_response({"data": [run_id for run_id, _ in runs]}, status=201)

    async def _watch(self, run_id: str, provider_run_id: str) -> None:
        event_id, delivery_id = f"evt{run_id[3:]}", f"dlv{run_id[3:]}"
        async with self._slots:
            where = URL(f"{self._url}/dibby/runs/{provider_run_id}", encoded=True)
            shown = json.loads(await (await self._http.get(where)).read())
            body, now = event_body(event_id, run_id, provider_run_id, shown), time.time_ns() // 1000
            await self._write(
                {
                    "run": ("succeeded", 1, now, run_id),
                    "event": (event_id, run_id, 1, "run.finished", now, body),
                    "delivery": (delivery_id, event_id, now),
                }
            )
            response = await self._http.post(self._hook, data=body, headers=signed_headers(event_id, body))
            await response.read()
            attempt = (delivery_id, time.time_ns() // 1000, response.status, 0)
            await self._write({"attempt": attempt, "delivered": (delivery_id,)})


def write_sqlite(folder: Path) -> Write:
    """Commits what gathers during the commit before it."""
    writer = RawWriter(folder / "raw.db", window_s=0)

    def write(rows: Rows) -> asyncio.Future[None]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.add(rows, lambda: written.set_result(None))
        return written

    return write


async def write_postgres(url: str) -> Write:
    """One statement, one round trip and one commit for the rows of each step; eight connections."""
    pool = await asyncpg.create_pool(url, min_size=8, max_size=8)
    await pool.execute(POSTGRES_SCHEMA)

    async def write(rows: Rows) -> None:
        await pool.execute(POSTGRES_STEPS[tuple(rows)], *(value for row in rows.values() for value in row))

    return write


async def serve_raw(place: str, peers_url: str) -> None:
    """Serve until killed; print the port. `place`: a folder, or the address of an empty database."""
    write = await write_postgres(place) if "://" in place else write_sqlite(Path(place))
    async with thin_client() as http:
        server = LeastServer(write, peers_url, http)
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/v1/runs", server.register)
        app.router.add_post("/v1/runs/batch", server.register)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def raw(folder: Path, peers_url: str, *, database: str | None = None) -> AsyncIterator[RunningDaemon]:
    """Run `serve_raw` in a process of its own, on SQLite or on an empty PostgreSQL database."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve-raw", database or str(folder), peers_url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with aiohttp.ClientSession(trust_env=False) as http:
            yield RunningDaemon(f"http://127.0.0.1:{port}", process.pid, http)
    finally:
        process.terminate()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Journey:
    """The result of one load; latencies in milliseconds, CPU in microseconds per run.

    `tenth_s`: seconds until the first tenth had arrived.
    """

    p50: float
    p99: float
    tenth_s: float
    per_s: float
    cpu: float
    lost: int


async def post(server: RunningDaemon, path: str, body: dict[str, object]) -> None:
    """Send until it is accepted."""
    while True:
        async with server.http.post(server.url + path, json=body) as response:
            await response.read()
            if response.status < 300:
                return
        await asyncio.sleep(0.1)


def new_run(name: str) -> dict[str, object]:
    return {"connection": "dibby", "provider_run_id": name}


async def steady(server: RunningDaemon, peers: TimedPeers, rate: float, seconds: float) -> Journey:
    """Register runs at `rate` per second for `seconds`."""
    names = [f"r{next(NUMBERS)}" for _ in range(int(rate * seconds))]
    start = time.monotonic() + 0.1
    starts = {name: start + number / rate for number, name in enumerate(names)}

    async def produce() -> None:
        async with asyncio.TaskGroup() as group:
            for name, at in starts.items():
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                group.create_task(post(server, "/v1/runs", new_run(name)))

    return await measure(server, peers, starts, produce())


async def burst(server: RunningDaemon, peers: TimedPeers, runs: int, batch: int) -> Journey:
    """Register `runs` runs as fast as the connections allow, `batch` in each request."""
    names = [f"r{next(NUMBERS)}" for _ in range(runs)]
    parts = iter([names[start : start + batch] for start in range(0, runs, batch)])

    async def produce() -> None:
        for part in parts:
            bodies = [new_run(name) for name in part]
            await (
                post(server, "/v1/runs/batch", {"runs": bodies}) if batch > 1 else post(server, "/v1/runs", bodies[0])
            )

    start = time.monotonic()
    producers = asyncio.gather(*(produce() for _ in range(PRODUCERS if batch == 1 else 4)))
    return await measure(server, peers, dict.fromkeys(names, start), producers)


async def measure(
    server: RunningDaemon, peers: TimedPeers, starts: dict[str, float], producing: Awaitable[object]
) -> Journey:
    """Wait for the producer and for the webhooks of all runs in `starts`."""
    before, arrived_before = read_usage(server.pid), peers.received
    await producing
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(peers.all_received(arrived_before + len(starts)), PATIENCE_S)
    await asyncio.sleep(CALM_S)
    cpu_s = read_usage(server.pid).cpu_s - before.cpu_s
    arrivals = {name: peers.arrived[name] for name in starts if name in peers.arrived}
    waits = [(at - starts[name]) * 1000 for name, at in arrivals.items()]
    wall_s = max(arrivals.values()) - min(starts.values())
    return Journey(
        percentile(waits, 50),
        percentile(waits, 99),
        sorted(arrivals.values())[len(arrivals) // 10] - min(starts.values()),
        len(arrivals) / wall_s,
        cpu_s / len(starts) * 1e6,
        len(starts) - len(arrivals),
    )


async def main(rates: Sequence[float], seconds: float, runs: int) -> None:
    """Print a line for each load and server, and the ratios."""
    peers, ratios = TimedPeers(), []
    with tempfile.TemporaryDirectory() as name:
        async with (
            peers.serve() as url,
            raw(Path(name), url) as baseline,
            daemon(Path(name), connection(url) + endpoint(url)) as ours,
        ):
            for server in (baseline, ours):
                await burst(server, peers, WARM_UP_RUNS, 1)
            loads = [(f"{rate:g}/s", lambda server, rate=rate: steady(server, peers, rate, seconds)) for rate in rates]
            loads += [
                (f"burst, {batch} a request", lambda server, batch=batch: burst(server, peers, runs, batch))
                for batch in (1, BATCH)
            ]
            for what, play in loads:
                found = []
                for label, server in (("raw", baseline), ("daemon", ours)):
                    journey = await play(server)
                    found.append(journey)
                    print(
                        f"{what:28} {label:7} p50 {journey.p50:8.1f} ms  p99 {journey.p99:8.1f} ms  "
                        f"{journey.per_s:7.0f}/s  {journey.cpu:6.0f} us CPU each  lost {journey.lost}",
                        flush=True,
                    )
                ratios.append((what, *found))
    print("daemon ÷ raw")
    for what, least, daemons in ratios:
        print(
            f"{what:28} p50 {daemons.p50 / least.p50:5.2f}  p99 {daemons.p99 / least.p99:5.2f}  "
            f"rate {daemons.per_s / least.per_s:5.2f}  tenth {daemons.tenth_s / least.tenth_s:5.2f}  CPU {daemons.cpu / least.cpu:5.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 50.0, 200.0], help="runs per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    parser.add_argument("--burst", type=int, default=5_000, help="runs, a multiple of 1,000")
    parser.add_argument("--quick", action="store_true", help="4 s of each rate and a burst of 2,000: rougher figures")
    parser.add_argument("--serve-raw", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_raw:
        run(serve_raw(*arguments.serve_raw))
    elif arguments.quick:
        asyncio.run(main(arguments.rates, 4.0, 2_000))
    else:
        asyncio.run(main(arguments.rates, arguments.seconds, arguments.burst))
