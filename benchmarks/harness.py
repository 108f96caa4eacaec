"""Shared by the benchmarks: the daemon as a process, its CPU and memory, its peers, and a database full of runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import sqlalchemy as sa
from aiohttp import web

from bridge.domain.clock import SystemClock
from bridge.domain.ids import new_id
from bridge.store import runs, tables
from bridge.store.database import Database
from bridge.store.runs import NewRun
from bridge.store.transaction import Tx

TOKEN = "benchmark"
INSERTED_AT_ONCE = 5_000
NEW_RUN = NewRun(
    id="",
    connection="dibby",
    provider="dibby",
    provider_run_id="",
    workflow_id=None,
    metadata={},
    tags=(),
    cadence=None,
    deadline_at=None,
    deadline_is_fixed=False,
)


_WITH_NORMAL = """
import sqlite3, sys
class Cursor(sqlite3.Cursor):
    def execute(self, sql, *given):
        return super().execute(sql.replace("synchronous=FULL", "synchronous=NORMAL"), *given)
class Connection(sqlite3.Connection):
    def cursor(self, factory=Cursor):
        return super().cursor(factory)
connect = sqlite3.connect
sqlite3.connect = sqlite3.dbapi2.connect = lambda *given, **named: connect(*given, **{"factory": Connection, **named})
from bridge.cli import main
sys.exit(main())
"""
NORMAL = ("-c", _WITH_NORMAL)
"""The daemon without waiting for the disk at each commit: shows the price of durability. It has no such setting."""


class FixedClock(SystemClock):
    """A clock whose wall time stands still."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


FINISHED = (
    b'{"versionName":"1.0","status":"FINISHED","createdAt":"2025-01-15T10:30:00Z","steps":5,'
    b'"stepsCompleted":5,"output":{"invoiceNumber":"INV-2025-001","totalAmount":1234.56,"vendor":"Acme Corp"}}'
)


@dataclass(frozen=True, slots=True)
class Spent:
    """The cost of a job: `count` items, seconds of the clock and of CPU."""

    count: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.count / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per item."""
        return self.cpu_s / self.count * 1e6


@dataclass(frozen=True, slots=True)
class Usage:
    """A process at one instant of the monotonic clock: seconds of CPU, bytes written to disk, bytes of memory."""

    at: float
    cpu_s: float
    written: int
    rss: int


def read_usage(pid: int) -> Usage:
    """Read the CPU clock of the process (ticks in /proc are off by half for work in step with them) and /proc."""
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(time.monotonic(), time.clock_gettime(~pid << 3 | 2), int(io["write_bytes"]), rss)


def percentile(waits: list[float], percent: float) -> float:
    """The smallest of `waits` that is not exceeded by `percent` of them."""
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * percent / 100))]


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A running daemon; `http` sends its token."""

    url: str
    pid: int
    http: aiohttp.ClientSession


@asynccontextmanager
async def daemon(
    folder: Path, config: str, *, database: str | None = None, program: Sequence[str] = ("-m", "bridge")
) -> AsyncIterator[RunningDaemon]:
    """Run `runbridge serve` with `config` after its own server, database and log sections.

    `program`: what Python runs as `runbridge`, for example `NORMAL`. A daemon that was killed may be run again.
    """
    path, log = folder / "config.toml", folder / "daemon.log"
    database = database or f"sqlite:///{folder}/runbridge.db"
    path.touch(0o600)
    path.write_text(
        f'[server]\nlisten = "127.0.0.1:0"\napi_token = "{TOKEN}"\nbody_bytes_max = 16777216\n'
        f'[database]\nurl = "{database}"\n[log]\nlevel = "info"\nformat = "json"\n{config}'
    )
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *program, "serve", "--config", str(path), stderr=output
        )
    try:
        url = await asyncio.wait_for(_address(log, process), 30)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as http:
            yield RunningDaemon(url, process.pid, http)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.wait(), 40)


async def _address(log: Path, process: asyncio.subprocess.Process) -> str:
    while process.returncode is None:
        for line in log.read_text().splitlines():
            if '"daemon.started"' in line:
                return f"http://{json.loads(line)['listen']}"
        await asyncio.sleep(0.05)
    raise RuntimeError(log.read_text())


def add_to_config(client: RunningDaemon, folder: Path, text: str) -> None:
    """Append `text` to the configuration and reload it."""
    with (folder / "config.toml").open("a") as config:
        config.write(text)
    os.kill(client.pid, signal.SIGHUP)


class Peers:
    """A provider whose runs have all finished, and a receiver that accepts everything."""

    def __init__(self) -> None:
        self.received = 0
        self.polled = 0
        self._wanted = 0
        self._complete = asyncio.Event()

    async def all_received(self, count: int) -> None:
        """Wait until `count` webhooks have arrived."""
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

    async def accept(self, request: web.Request) -> web.Response:
        """Take a webhook without counting it."""
        await request.read()
        return web.Response(status=204)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/dibby/runs/{id}", self.poll)
        app.router.add_post("/hooks", self.take)
        app.router.add_post("/more", self.accept)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


class TimedPeers(Peers):
    """Peers that record when each run was first shown as finished and when its webhook arrived (monotonic seconds)."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}
        self.arrived: dict[str, float] = {}

    async def poll(self, request: web.Request) -> web.Response:
        self.shown.setdefault(request.match_info["id"], time.monotonic())
        return await super().poll(request)

    async def take(self, request: web.Request) -> web.Response:
        event = await request.json()
        self.arrived.setdefault(event["data"]["run"]["provider_run_id"], time.monotonic())
        return await super().take(request)


@asynccontextmanager
async def slow_server() -> AsyncIterator[str]:
    """A receiver that answers after ten seconds."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(10)
                writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


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


async def insert_runs(
    url: str, count: int, *, due_at: datetime | None = None, every_s: float = 0.0, prefix: str = "w"
) -> float:
    """Insert `count` runs through the store; return runs per second.

    The first is due at `due_at` (default: now), each further one `every_s` later.
    """
    clock = SystemClock() if due_at is None else FixedClock(due_at)
    database = Database(url, clock)
    await database.open()
    started_s = time.monotonic()
    try:
        for start in range(0, count, INSERTED_AT_ONCE):
            numbers = range(start, min(start + INSERTED_AT_ONCE, count))
            new = [replace(NEW_RUN, id=new_id("run"), provider_run_id=f"{prefix}{n}") for n in numbers]
            await database.write(lambda tx, new=new: runs.insert_runs(tx, new))
            if every_s:
                await database.write(lambda tx, new=new, start=start: _spread(tx, new, start, every_s))
    finally:
        await database.close()
    return count / (time.monotonic() - started_s)


def _spread(tx: Tx, new: list[NewRun], start: int, every_s: float) -> None:
    due = [
        {"run": run.id, "due": tx.now + timedelta(seconds=number * every_s)} for number, run in enumerate(new, start)
    ]
    statement = sa.update(tables.runs).where(tables.runs.c.id == sa.bindparam("run"))
    tx.connection.execute(statement.values(next_poll_at=sa.bindparam("due")), due)


def in_an_hour() -> datetime:
    """A due time after the end of any benchmark."""
    return SystemClock().now() + timedelta(hours=1)
