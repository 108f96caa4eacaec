"""The raw pipeline: the work of the daemon for one event and nothing else; the yardstick of the other benchmarks.

poll (aiohttp GET, json, compare) → commit (run, event, delivery) → signed POST → commit (attempt, delivery), on one
sqlite3 connection in one thread, WAL, synchronous=FULL, one transaction for what arrives within 20 ms. It has no
leases, retries, limits, address guard or API. It runs in a process of its own against servers in the caller's, as the
daemon does, and reports its CPU (user + system, all threads) from the first poll to the last commit. It uses uvloop
if that is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import hashlib
import hmac
import importlib.util
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from benchmarks.harness import Peers, Spent

WINDOW_S = 0.02
UNRECORDED_MAX = 2000
SECRET = b"k" * 32
STATEMENTS = {
    "new run": "INSERT INTO runs VALUES (?, ?, 'queued', 0, NULL)",
    "run": "UPDATE runs SET status = ?, sequence = ?, observed_at = ? WHERE id = ?",
    "event": "INSERT INTO events (id, run_id, sequence, type, created_at, body) VALUES (?, ?, ?, ?, ?, ?)",
    "delivery": "INSERT INTO deliveries (id, event_id, state, attempts, next_attempt_at) VALUES (?, ?, 'pending', 0, ?)",
    "attempt": "INSERT INTO attempts (delivery_id, number, at, status, duration_ms) VALUES (?, 1, ?, ?, ?)",
    "delivered": "UPDATE deliveries SET state = 'delivered', attempts = 1, next_attempt_at = NULL WHERE id = ?",
}
SCHEMA = """
CREATE TABLE runs (id TEXT PRIMARY KEY, provider_run_id TEXT UNIQUE, status TEXT, sequence INTEGER, observed_at INTEGER)
  WITHOUT ROWID;
CREATE TABLE events (position INTEGER PRIMARY KEY, id TEXT UNIQUE, run_id TEXT, sequence INTEGER, type TEXT,
  created_at INTEGER, body BLOB, UNIQUE (run_id, sequence));
CREATE TABLE deliveries (id TEXT PRIMARY KEY, event_id TEXT, state TEXT, attempts INTEGER, next_attempt_at INTEGER)
  WITHOUT ROWID;
CREATE INDEX due ON deliveries (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE TABLE attempts (id INTEGER PRIMARY KEY, delivery_id TEXT, number INTEGER, at INTEGER, status INTEGER,
  duration_ms INTEGER);
CREATE INDEX attempts_of ON attempts (delivery_id);
"""


class RawWriter:
    """Commits the rows of one window in its own thread, then calls back.

    With `window_s` 0, a lone row is committed at once, and a commit takes what was added during the one before it.
    """

    def __init__(self, path: Path, run_count: int = 0, *, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._thread = ThreadPoolExecutor(1)
        self._loop = asyncio.get_running_loop()
        self._rows: dict[str, list[Sequence[Any]]] = {name: [] for name in STATEMENTS}
        self._then: list[Callable[[], None]] = []
        self._is_armed = False
        self._connection = self._thread.submit(_open, path, run_count).result()

    def add(self, rows: dict[str, Sequence[Any]], then: Callable[[], None]) -> None:
        """Add rows to the next commit; `then` is called after it."""
        for name, row in rows.items():
            self._rows[name].append(row)
        self._then.append(then)
        if not self._is_armed:
            self._is_armed = True
            self._loop.call_later(self._window_s, self._flush)

    def count(self, table: str) -> int:
        query = f"SELECT count(*) FROM {table}"
        return self._thread.submit(lambda: self._connection.execute(query).fetchone()[0]).result()

    def _flush(self) -> None:
        rows, then = self._rows, self._then
        self._rows, self._then = {name: [] for name in STATEMENTS}, []
        self._loop.run_in_executor(self._thread, self._commit, rows).add_done_callback(lambda f: self._done(f, then))

    def _commit(self, rows: dict[str, list[Sequence[Any]]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for name, values in rows.items():
            if values:
                self._connection.executemany(STATEMENTS[name], values)
        self._connection.execute("COMMIT")

    def _done(self, commit: asyncio.Future[None], then: list[Callable[[], None]]) -> None:
        commit.result()
        for call in then:
            call()
        self._is_armed = bool(self._then)
        if self._is_armed:
            self._loop.call_later(self._window_s, self._flush)


def _open(path: Path, run_count: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(SCHEMA)
    connection.execute("BEGIN")
    rows = ((f"run_{n:020}", f"r{n}") for n in range(run_count))
    connection.executemany(STATEMENTS["new run"], rows)
    connection.execute("COMMIT")
    return connection


@asynccontextmanager
async def thin_client() -> AsyncIterator[aiohttp.ClientSession]:
    """An aiohttp session without its optional work."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=30),
    ) as http:
        yield http


class Pipeline:
    """`count` runs, each polled once and found finished."""

    def __init__(self, url: str, http: aiohttp.ClientSession, writer: RawWriter, count: int) -> None:
        self._url, self._hook = url, URL(f"{url}/hooks")
        self._http = http
        self._writer = writer
        self._todo = iter(range(count))
        self._left = count
        self._room = asyncio.Semaphore(UNRECORDED_MAX)
        self._outbox: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
        self.complete = asyncio.Event()

    async def poll_all(self) -> None:
        for number in self._todo:
            await self._room.acquire()
            answer = await self._http.get(URL(f"{self._url}/dibby/runs/r{number}", encoded=True), allow_redirects=False)
            shown = json.loads(await answer.read())
            if shown["status"] != "RUNNING":
                self._record(number, shown)

    def _record(self, number: int, shown: dict[str, Any]) -> None:
        now = time.time_ns() // 1000
        run_id, event_id, delivery_id = (f"{kind}_{number:020}" for kind in ("run", "evt", "dlv"))
        body = event_body(event_id, run_id, f"r{number}", shown)
        self._writer.add(
            {
                "run": ("succeeded", 1, now, run_id),
                "event": (event_id, run_id, 1, "run.finished", now, body),
                "delivery": (delivery_id, event_id, now),
            },
            lambda: self._outbox.put_nowait((event_id, delivery_id, body)),
        )

    async def send_all(self) -> None:
        while True:
            event_id, delivery_id, body = await self._outbox.get()
            began = time.monotonic()
            answer = await self._http.post(
                self._hook, data=body, headers=signed_headers(event_id, body), allow_redirects=False
            )
            await answer.read()
            took_ms = round((time.monotonic() - began) * 1000)
            attempt = (delivery_id, time.time_ns() // 1000, answer.status, took_ms)
            self._writer.add({"attempt": attempt, "delivered": (delivery_id,)}, self._recorded)

    def _recorded(self) -> None:
        self._room.release()
        self._left -= 1
        if not self._left:
            self.complete.set()


def event_body(event_id: str, run_id: str, provider_run_id: str, shown: dict[str, Any]) -> bytes:
    """An event body with the size and shape of the daemon's."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = {
        "id": run_id,
        "connection": "dibby",
        "provider": "dibby",
        "provider_run_id": provider_run_id,
        "workflow_id": None,
        "status": "succeeded",
        "provider_status": shown["status"],
        "settled": True,
        "progress": {"completed": shown["stepsCompleted"], "total": shown["steps"]},
        "output": shown["output"],
        "output_truncated": False,
        "error": None,
        "created_at": shown["createdAt"],
        "started_at": None,
        "finished_at": None,
        "registered_at": now,
        "observed_at": now,
        "metadata": {},
        "tags": [],
    }
    data = {"sequence": 1, "previous_status": "queued", "run": run}
    event = {"id": event_id, "type": "run.finished", "timestamp": now, "data": data}
    return json.dumps(event, separators=(",", ":")).encode()


def signed_headers(event_id: str, body: bytes) -> dict[str, str]:
    """Headers of Standard Webhooks."""
    sent_at = str(int(time.time()))
    digest = hmac.digest(SECRET, f"{event_id}.{sent_at}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": sent_at,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def do_events(url: str, count: int, concurrency: int) -> Spent:
    """Run the whole pipeline for `count` runs that are in the database already."""
    with tempfile.TemporaryDirectory() as folder:
        async with thin_client() as http:
            writer = RawWriter(Path(folder) / "raw.db", count)
            pipeline = Pipeline(url, http, writer, count)
            stop = stopwatch(count)
            senders = [asyncio.create_task(pipeline.send_all()) for _ in range(concurrency)]
            await asyncio.gather(*(pipeline.poll_all() for _ in range(concurrency)))
            await pipeline.complete.wait()
            spent = stop()
            for sender in senders:
                sender.cancel()
            found = [writer.count(table) for table in ("events", "deliveries WHERE state = 'delivered'", "attempts")]
            assert found == [count] * 3, found
            return spent


async def do_polls(url: str, count: int, concurrency: int) -> Spent:
    """Run a bare loop that sends GET and reads."""
    todo = iter(range(count))
    async with thin_client() as http:

        async def poll() -> None:
            for number in todo:
                where = URL(f"{url}/dibby/runs/r{number % 1000}", encoded=True)
                await (await http.get(where, allow_redirects=False)).read()

        stop = stopwatch(count)
        await asyncio.gather(*(poll() for _ in range(concurrency)))
        return stop()


def stopwatch(count: int) -> Callable[[], Spent]:
    """Start measuring; calling the result stops it."""
    gc.collect()
    gc.freeze()
    started_s, cpu_s = time.monotonic(), time.process_time()

    def stop() -> Spent:
        return Spent(count, time.monotonic() - started_s, time.process_time() - cpu_s)

    return stop


async def measure_raw(job: str, url: str, count: int, concurrency: int = 64) -> Spent:
    """Run `job` (events or polls) in a process of its own against the servers at `url`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--job", job, url, str(count), str(concurrency), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"the raw {job} failed"
    return Spent(**json.loads(output))


async def main() -> None:
    """Print the rates of the raw pipeline and of the bare GET loop on this machine."""
    async with Peers().serve() as url:
        print("raw loops in a process of their own, aiohttp, SQLite FULL; servers in another process")
        for job, what in (("events", "poll → commit → POST → commit"), ("polls", "GET")):
            spent = await measure_raw(job, url, 5000)
            print(f"{what:32} {spent.per_s:8.0f}/s  {spent.cpu_us:6.0f} us CPU each")


def run(work: Any) -> Any:
    """Run `work` on uvloop if it is installed, else on asyncio's loop."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--job", nargs=4, metavar=("JOB", "URL", "COUNT", "CONCURRENCY"), help=argparse.SUPPRESS)
    if job := arguments.parse_args().job:
        do = {"events": do_events, "polls": do_polls}[job[0]]
        print(json.dumps(asdict(run(do(job[1], int(job[2]), int(job[3]))))))
    else:
        asyncio.run(main())
