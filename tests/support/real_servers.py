"""Servers from PyPI, each in an environment of its own below `.venv/servers`, made once."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".venv" / "servers"
START_S = 120.0
FLOWER_KEY = {"Authorization": aiohttp.encode_basic_auth("user", "secret")}

TASKS = """\
import time
from celery import Celery
app = Celery("tasks", broker="filesystem://", backend="db+sqlite:///results.db")
app.conf.update(
    broker_transport_options={"data_folder_in": "q", "data_folder_out": "q", "control_folder": "control"},
    worker_send_task_events=True, task_send_sent_event=True, task_track_started=True,
)
@app.task(name="tasks.add")
def add(x=0, y=0):
    return x + y
@app.task(name="tasks.fail")
def fail():
    raise ValueError("no paper")
@app.task(name="tasks.sleep")
def sleep(s=600):
    time.sleep(s)
"""
MASTER = """\
from buildbot.plugins import schedulers, steps, util, worker
commands = {{"good": ["true"], "bad": ["false"], "slow": ["sleep", "600"]}}
c = BuildmasterConfig = {{
    "workers": [worker.LocalWorker("w", max_builds=4)],
    "protocols": {{"null": {{}}}},
    "builders": [
        util.BuilderConfig(name=name, workernames=["w"], factory=util.BuildFactory([steps.ShellCommand(command=command)]))
        for name, command in commands.items()
    ],
    "schedulers": [schedulers.ForceScheduler(name="force-" + name, builderNames=[name]) for name in commands],
    "www": {{"port": "tcp:{port}:interface=127.0.0.1"}},
    "db": {{"db_url": "sqlite:///state.sqlite"}},
    "buildbotNetUsageData": None,
    "title": "t",
    "buildbotURL": "http://127.0.0.1:{port}/",
}}
"""


def environment(name: str, *packages: str) -> Path:
    """The folder with the commands of an environment that has these packages."""
    folder = ENVIRONMENTS / name
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "installed"
        if not done.exists() or done.read_text() != " ".join(packages):
            uv = (sys.executable, "-m", "uv", "--quiet")
            subprocess.run([*uv, "venv", "--clear", "--seed", "--python", sys.executable, folder], check=True)
            subprocess.run([*uv, "pip", "install", "--python", folder / "bin/python", *packages], check=True)
            done.write_text(" ".join(packages))
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def process(folder: Path, *command: str | Path) -> AsyncIterator[None]:
    """A process group in `folder`, ended at the end; its words are in the file `log` there."""
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            await asyncio.to_thread(child.wait, 20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)


async def answers(
    url: str, headers: dict[str, str] | None = None, *, when: Callable[[Any], bool] = lambda _: True
) -> None:
    """Wait until a GET is answered with 200 and JSON of which `when` is true."""
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.timeout(START_S):
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200 and when(await response.json(content_type=None)):
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@asynccontextmanager
async def flower(folder: Path) -> AsyncIterator[str]:
    """Flower with a Celery worker: tasks.add, tasks.fail and tasks.sleep. Its key is `user:secret`."""
    commands = environment("flower", "flower==2.2.0", "celery==5.7.0", "sqlalchemy")
    for name in ("q", "control"):
        (folder / name).mkdir()
    (folder / "tasks.py").write_text(TASKS)
    port = free_port()
    celery = (commands / "python", "-m", "celery", "-A", "tasks")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            process(folder, *celery, "flower", "--address=127.0.0.1", f"--port={port}", "--basic-auth=user:secret")
        )
        await answers(f"http://127.0.0.1:{port}/api/tasks", FLOWER_KEY)
        await stack.enter_async_context(process(folder, *celery, "worker", "-E", "-c", "2", "-l", "warning"))
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def buildbot(folder: Path) -> AsyncIterator[str]:
    """Buildbot with the force schedulers force-good, force-bad and force-slow."""
    commands = environment("buildbot", "buildbot[bundle]==4.3.0", "buildbot-worker==4.3.0")
    port = free_port()
    subprocess.run([commands / "buildbot", "create-master", folder], check=True, capture_output=True)
    (folder / "master.cfg").write_text(MASTER.format(port=port))
    async with process(folder, commands / "twistd", "-n", "--pidfile=", "-y", "buildbot.tac"):
        url = f"http://127.0.0.1:{port}"
        # Its worker connects when all else has begun; before that the web server opens its port a second time.
        await answers(f"{url}/api/v2/workers", when=lambda found: any(one["connected_to"] for one in found["workers"]))
        yield url
