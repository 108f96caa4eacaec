"""Registering runs: one durable `POST /v1/runs` against a handler that does nothing, and batches of 1,000.

Each server is a process of its own; the client in this one keeps 64 requests in flight over kept connections. The
handler that does nothing is a bare aiohttp application that answers 201 without reading the body; `GET /healthz` is
the daemon's own cheapest answer. CPU is the server's, user + system, from /proc; items a second are also the client's,
which costs more than the handler that does nothing, so that its ratio flatters. Nothing is polled meanwhile: the
connection may ask its provider once in a hundred seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count as count_up
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks.idle import read
from benchmarks.pipeline import Spent
from benchmarks.process import Daemon, daemon

CONCURRENCY = 64
BATCH = 1_000
CONFIG = (
    '[connections.dibby]\nprovider = "dibby"\nbase_url = "http://127.0.0.1:1"\napi_key = "k"\n'
    "requests_per_second = 0.01\nmax_in_flight = 1\n"
)
Ask = Callable[[], Awaitable[None]]


async def measure(pid: int, count: int, ask: Ask, *, concurrency: int = CONCURRENCY) -> Spent:
    """What `count` requests cost the process `pid`, after some to warm it up."""
    await _ask_all(ask, min(count, 10 * concurrency), concurrency)
    before = read(pid)
    await _ask_all(ask, count, concurrency)
    after = read(pid)
    return Spent(count, after.at - before.at, after.cpu_s - before.cpu_s)


async def _ask_all(ask: Ask, count: int, concurrency: int) -> None:
    todo = iter(range(count))

    async def worker() -> None:
        for _ in todo:
            await ask()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def post_one(server: Daemon, numbers: Iterator[int]) -> Ask:
    """A registration of a run not seen before."""

    async def ask() -> None:
        run = {"connection": "dibby", "provider_run_id": f"r{next(numbers)}"}
        async with server.http.post(f"{server.url}/v1/runs", json=run) as answer:
            await answer.read()
            assert answer.status == 201, answer.status

    return ask


def post_batch(server: Daemon, numbers: Iterator[int]) -> Ask:
    """A thousand."""

    async def ask() -> None:
        runs = [{"connection": "dibby", "provider_run_id": f"r{next(numbers)}"} for _ in range(BATCH)]
        async with server.http.post(f"{server.url}/v1/runs/batch", json={"runs": runs}) as answer:
            await answer.read()
            assert answer.status == 200, answer.status

    return ask


def get_health(server: Daemon) -> Ask:
    async def ask() -> None:
        async with server.http.get(f"{server.url}/healthz") as answer:
            await answer.read()

    return ask


async def serve_nothing() -> None:
    """The handler that does nothing, until it is killed; its port goes to standard output."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=201)

    app = web.Application()
    app.router.add_post("/v1/runs", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@asynccontextmanager
async def nothing() -> AsyncIterator[Daemon]:
    """`serve_nothing` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve-nothing", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with aiohttp.ClientSession(trust_env=False) as http:
            yield Daemon(f"http://127.0.0.1:{port}", process.pid, http)
    finally:
        process.terminate()
        await process.wait()


def tell(what: str, spent: Spent, *, times: int = 1) -> None:
    print(f"{what:46} {spent.per_s * times:8.0f}/s  {spent.cpu_us / times:6.0f} us CPU each")


async def main(count: int, batches: int) -> None:
    """Print the table and the ratios."""
    numbers = count_up()
    print(f"{count} requests of each kind, {CONCURRENCY} in flight; {batches} batches, 4 in flight")
    async with nothing() as server:
        noop = await measure(server.pid, count, post_one(server, numbers))
    with tempfile.TemporaryDirectory() as folder:
        async with daemon(Path(folder), CONFIG) as server:
            health = await measure(server.pid, count, get_health(server))
            single = await measure(server.pid, count, post_one(server, numbers))
            batch = await measure(server.pid, batches, post_batch(server, numbers), concurrency=4)
            size = sum(entry.stat().st_size for entry in Path(folder).glob("runbridge.db*"))
    tell("POST to a handler that does nothing", noop)
    tell("GET /healthz", health)
    tell("POST /v1/runs, durable", single)
    tell("in batches of 1000, durable", batch, times=BATCH)
    print(
        f"POST /v1/runs ÷ no-op handler: {single.per_s / noop.per_s:.2f} in items/s, "
        f"{noop.cpu_us / single.cpu_us:.2f} in CPU per item (no-op ÷ ours)"
    )
    print(f"database with its WAL: {size / next(numbers):.0f} bytes per registered run")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=5_000, help="of each kind")
    arguments.add_argument("--batches", type=int, default=20, help="of 1,000 runs")
    arguments.add_argument("--serve-nothing", action="store_true", help="for its own use")
    given = arguments.parse_args()
    asyncio.run(serve_nothing() if given.serve_nothing else main(given.requests, given.batches))
