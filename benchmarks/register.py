"""Registration: durable `POST /v1/runs` against a handler that does nothing, and batches of 1,000.

Each server is a process of its own; the client in this one keeps 64 requests in flight on persistent connections. The
handler that does nothing is a bare aiohttp application that answers 201 without reading the body; `GET /healthz` is
the cheapest response of the daemon. CPU is user + system time of the server. Items per second include the client,
which costs more than the handler that does nothing, so that ratio looks better than it is. Nothing is polled: the
connection allows one request in a hundred seconds.
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

from benchmarks.harness import RunningDaemon, Spent, daemon, read_usage

CONCURRENCY = 64
BATCH = 1_000
CONFIG = (
    '[connections.dibby]\nprovider = "dibby"\nbase_url = "http://127.0.0.1:1"\napi_key = "k"\n'
    "requests_per_second = 0.01\nmax_in_flight = 1\n"
)
SendRequest = Callable[[], Awaitable[None]]


async def measure(pid: int, count: int, send: SendRequest, *, concurrency: int = CONCURRENCY) -> Spent:
    """The cost of `count` requests to the process `pid`, after some that warm it up."""
    await _send_all(send, min(count, 10 * concurrency), concurrency)
    before = read_usage(pid)
    await _send_all(send, count, concurrency)
    after = read_usage(pid)
    return Spent(count, after.at - before.at, after.cpu_s - before.cpu_s)


async def _send_all(send: SendRequest, count: int, concurrency: int) -> None:
    todo = iter(range(count))

    async def worker() -> None:
        for _ in todo:
            await send()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def post_one(server: RunningDaemon, numbers: Iterator[int]) -> SendRequest:
    """Register one new run."""

    async def send() -> None:
        run = {"connection": "dibby", "provider_run_id": f"r{next(numbers)}"}
        async with server.http.post(f"{server.url}/v1/runs", json=run) as answer:
            await answer.read()
            assert answer.status == 201, answer.status

    return send


def post_batch(server: RunningDaemon, numbers: Iterator[int]) -> SendRequest:
    """Register a thousand new runs."""

    async def send() -> None:
        runs = [{"connection": "dibby", "provider_run_id": f"r{next(numbers)}"} for _ in range(BATCH)]
        async with server.http.post(f"{server.url}/v1/runs/batch", json={"runs": runs}) as answer:
            await answer.read()
            assert answer.status == 200, answer.status

    return send


def get_health(server: RunningDaemon) -> SendRequest:
    async def send() -> None:
        async with server.http.get(f"{server.url}/healthz") as answer:
            await answer.read()

    return send


async def serve_nothing() -> None:
    """Serve the handler that does nothing until killed; print its port."""

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
async def nothing() -> AsyncIterator[RunningDaemon]:
    """Run `serve_nothing` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve-nothing", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with aiohttp.ClientSession(trust_env=False) as http:
            yield RunningDaemon(f"http://127.0.0.1:{port}", process.pid, http)
    finally:
        process.terminate()
        await process.wait()


def print_spent(what: str, spent: Spent, *, times: int = 1) -> None:
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
    print_spent("POST to a handler that does nothing", noop)
    print_spent("GET /healthz", health)
    print_spent("POST /v1/runs, durable", single)
    print_spent("in batches of 1000, durable", batch, times=BATCH)
    print(
        f"POST /v1/runs ÷ no-op handler: {single.per_s / noop.per_s:.2f} in items/s, "
        f"{noop.cpu_us / single.cpu_us:.2f} in CPU per item (no-op ÷ ours)"
    )
    print(f"database with its WAL: {size / next(numbers):.0f} bytes per registered run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000, help="of each kind")
    parser.add_argument("--batches", type=int, default=20, help="of 1,000 runs")
    parser.add_argument("--serve-nothing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    asyncio.run(serve_nothing() if arguments.serve_nothing else main(arguments.requests, arguments.batches))
