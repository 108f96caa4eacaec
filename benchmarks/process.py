"""The daemon as a process, for benchmarks: started on a free port, its API at hand, ended at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

TOKEN = "benchmark"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon; `http` sends the token along."""

    url: str
    pid: int
    http: aiohttp.ClientSession


@asynccontextmanager
async def daemon(folder: Path, config: str, *, database: str | None = None) -> AsyncIterator[Daemon]:
    """`runbridge serve` with `config` beside its own server and database sections."""
    path, log = folder / "config.toml", folder / "daemon.log"
    database = database or f"sqlite:///{folder}/runbridge.db"
    path.touch(0o600)
    path.write_text(
        f'[server]\nlisten = "127.0.0.1:0"\napi_token = "{TOKEN}"\nbody_bytes_max = 16777216\n'
        f'[database]\nurl = "{database}"\n[log]\nlevel = "info"\nformat = "json"\n{config}'
    )
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bridge", "serve", "--config", str(path), stderr=output
        )
    try:
        url = await asyncio.wait_for(_address(log, process), 30)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as http:
            yield Daemon(url, process.pid, http)
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 40)


async def _address(log: Path, process: asyncio.subprocess.Process) -> str:
    while process.returncode is None:
        for line in log.read_text().splitlines():
            if '"daemon.started"' in line:
                return f"http://{json.loads(line)['listen']}"
        await asyncio.sleep(0.05)
    raise RuntimeError(log.read_text())


def add_to_config(client: Daemon, folder: Path, text: str) -> None:
    """Add to the configuration and have it read again."""
    with (folder / "config.toml").open("a") as config:
        config.write(text)
    os.kill(client.pid, signal.SIGHUP)
