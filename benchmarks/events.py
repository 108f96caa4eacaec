"""Events end to end: poll → transition → commit → signed POST → recorded, everything FULL durable on SQLite.

The daemon is a process of its own; providers and receiver are minimal servers in this one, so that what is
measured is the daemon. Runs are over when registered: each costs one poll, one event, one delivery. Printed:
runs a second from the first registration to the last recorded delivery, and the daemon's CPU per event. The
baseline is a bare aiohttp client loop in this process: one GET and one POST for each, nothing else.

Beside it the same without registering: the runs wait in the database, and a reload gives the daemon their connection.
From the reload on it does what benchmarks/pipeline.py does by hand, in a process of its own against the same servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks.idle import read
from benchmarks.pipeline import Spent, measure_raw
from benchmarks.prefill import insert_runs
from benchmarks.process import add_to_config, daemon

FINISHED = (
    b'{"id":"run_x","versionName":"1.0","status":"FINISHED","createdAt":"2025-01-15T10:30:00Z","steps":5,'
    b'"stepsCompleted":5,"output":{"invoiceNumber":"INV-2025-001","totalAmount":1234.56,"vendor":"Acme Corp"}}'
)


class Peers:
    """A provider whose every run is finished, and a receiver that takes everything."""

    def __init__(self) -> None:
        self.received = 0
        self.polled = 0
        self._wanted = 0
        self._complete = asyncio.Event()

    async def all_received(self, count: int) -> None:
        """Wait until so many have arrived."""
        self._wanted = count
        if self.received < count:
            self._complete.clear()
            await self._complete.wait()

    async def poll(self, _request: web.Request) -> web.Response:
        self.polled += 1
        return web.Response(body=FINISHED, content_type="application/json")

    async def take(self, request: web.Request) -> web.Response:
        await request.read()
        self.received += 1
        if self.received == self._wanted:
            self._complete.set()
        return web.Response(status=204)

    @contextlib.asynccontextmanager
    async def serve(self):
        app = web.Application()
        app.router.add_get("/dibby/runs/{id}", self.poll)
        app.router.add_post("/hooks", self.take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


async def bare(url: str, count: int, concurrency: int) -> tuple[float, float]:
    """(pairs of requests per second, CPU seconds) of a bare client loop, servers included in the CPU."""
    todo = iter(range(count))
    body = b'{"type":"run.finished"}' * 40
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def worker() -> None:
            for number in todo:
                async with http.get(f"{url}/dibby/runs/{number}") as answer:
                    await answer.read()
                async with http.post(f"{url}/hooks", data=body) as answer:
                    await answer.read()

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count / (time.monotonic() - started), cpu_s


async def bridge(url: str, peers: Peers, count: int, database: str | None = None) -> tuple[float, float, float]:
    """(registrations/s, events/s, daemon CPU seconds per event)."""
    with tempfile.TemporaryDirectory() as folder:
        async with daemon(Path(folder), connection(url) + endpoint(url), database=database) as client:
            before, started = read(client.pid), time.monotonic()
            for start in range(0, count, 1000):
                runs = [{"connection": "dibby", "provider_run_id": f"r{n}"} for n in range(start, start + 1000)]
                async with client.http.post(f"{client.url}/v1/runs/batch", json={"runs": runs}) as answer:
                    assert answer.status == 200, await answer.text()
            registered_s = time.monotonic() - started
            await peers.all_received(count)
            wall_s = time.monotonic() - started
            await asyncio.sleep(1)
            after = read(client.pid)
    return count / registered_s, count / wall_s, (after.cpu_s - before.cpu_s) / count


def connection(url: str) -> str:
    return (
        f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{url}/dibby"\napi_key = "k"\n'
        "requests_per_second = 100000\nmax_in_flight = 64\n"
    )


def endpoint(url: str) -> str:
    return (
        f'[endpoints.app]\nurl = "{url}/hooks"\nsecret = "whsec_{"A" * 43}="\nevents = ["run.finished"]\n'
        "[delivery]\nmax_in_flight = 64\nmax_in_flight_per_endpoint = 64\n"
    )


async def work_off(url: str, peers: Peers, count: int, database: str | None = None) -> tuple[Spent, float]:
    """What runs cost the daemon that are in the database already, from the reload on; bytes of the file for each."""
    with tempfile.TemporaryDirectory() as folder:
        where = database or f"sqlite:///{folder}/runbridge.db"
        await insert_runs(where, 0)
        file = Path(folder) / "runbridge.db"
        empty = file.stat().st_size if database is None else 0
        await insert_runs(where, count)
        async with daemon(Path(folder), endpoint(url), database=where) as client:
            before = read(client.pid)
            add_to_config(client, Path(folder), connection(url))
            await peers.all_received(count)
            wall_s = time.monotonic() - before.at
            await asyncio.sleep(1)
            spent = Spent(count, wall_s, read(client.pid).cpu_s - before.cpu_s)
        return spent, ((file.stat().st_size - empty) / count if database is None else 0.0)


async def main() -> None:
    """Print the figures and their ratios."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=5000, help="a multiple of 1000")
    arguments.add_argument("--database", help="a PostgreSQL URL instead of a SQLite file")
    count = arguments.parse_args().events
    peers = Peers()
    async with peers.serve() as url:
        bare_s, bare_cpu_s = await bare(url, count, 50)
        peers.received = 0
        registered, events, cpu_s = await bridge(url, peers, count, arguments.parse_args().database)
        peers.received = 0
        raw = await measure_raw("events", url, count)
        peers.received = 0
        ours, stored = await work_off(url, peers, count, arguments.parse_args().database)
    print(
        f"bare GET + POST loop, client and servers in one process: {bare_s:8.0f}/s  {bare_cpu_s / count * 1e6:6.0f} us CPU each"
    )
    print(f"registered in batches of 1000:                           {registered:8.0f}/s")
    print(f"events end to end, daemon:                               {events:8.0f}/s  {cpu_s * 1e6:6.0f} us CPU each")
    print(
        f"the same without registering:                            {ours.per_s:8.0f}/s  {ours.cpu_us:6.0f} us CPU each"
    )
    print(f"raw pipeline (benchmarks/pipeline.py):                   {raw.per_s:8.0f}/s  {raw.cpu_us:6.0f} us CPU each")
    if stored:
        print(f"database, all told:                                      {stored:8.0f} bytes per finished run")
    print(f"events ÷ bare loop: {events / bare_s:.2f}")
    print(
        f"events without registering ÷ raw pipeline: {ours.per_s / raw.per_s:.2f} in items/s, "
        f"{raw.cpu_us / ours.cpu_us:.2f} in CPU per item (raw ÷ ours)"
    )


if __name__ == "__main__":
    asyncio.run(main())
