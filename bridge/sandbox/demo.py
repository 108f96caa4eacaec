"""`make demo`: the main job with real processes that speak HTTP, in well under a minute.

Starts four fake providers, the daemon on SQLite, and a receiver that verifies signatures. Runs are registered through
the API; the demo ends when each has sent its signed `run.finished`, or reports what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bridge.domain.signing.hmac_v1 import new_secret

T = TypeVar("T")
TIME_MAX_S = 45.0  # from the registration of the runs on
START_MAX_S = 90.0  # the first start after an installation compiles every library
STOP_MAX_S = 10.0
TOKEN = "demo-token"  # noqa: S105 - for a daemon that runs for seconds, on loopback

NEXT_STEPS = (
    ("init", "write a configuration with a fresh token"),
    ("providers list", "the APIs that it can watch, for the configuration"),
    ("serve", "start the daemon"),
    ("dashboard", "open the dashboard of the running daemon"),
)
FACTS = {"invoice": "INV-2025-001", "total": 1234.56}
# provider, workflow, body for the control API, expected status
DEMO_RUNS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("dibby", "invoices", {"life": {"duration_s": 6, "output": FACTS}}, "succeeded"),
    ("dibby", "invoices", {"life": {"duration_s": 4, "outcome": "failed", "error": "Failed to read page 2"}}, "failed"),
    ("retab", "contracts", {"life": {"duration_s": 5, "output": FACTS}}, "succeeded"),
    (
        "retab",
        "review",
        {
            "life": {
                "duration_s": 8,
                "steps": [
                    {"after_s": 0, "status": "running"},
                    {"after_s": 2, "status": "waiting"},
                    {"after_s": 5, "status": "running"},
                ],
                "output": FACTS,
            }
        },
        "succeeded",
    ),
    ("dify", "translate", {"life": {"duration_s": 3, "output": {"result": "Traduisez ceci"}}}, "succeeded"),
    ("dify", "summarise", {"life": {"duration_s": 7, "outcome": "partial", "output": {"result": "half"}}}, "partial"),
    ("instabase", "claims", {"life": {"duration_s": 6, "output": FACTS}}, "succeeded"),
    ("instabase", "claims", {"life": {"duration_s": 0, "outcome": "cancelled"}, "age_s": 60}, "cancelled"),
)


def main() -> int:
    """Run the demo; 0 if the end of every run arrived and verified, 1 otherwise."""
    console = Console(highlight=False)
    try:
        return asyncio.run(_Demo(console).play())
    except (OSError, aiohttp.ClientError, TimeoutError, RuntimeError) as problem:
        console.print("[red]The demo could not go on:[/red]", escape(str(problem)))
        return 1


@dataclass(slots=True)
class _DemoRun:
    """One run of the demo: the expected outcome, and the events that arrived."""

    provider: str
    workflow: str
    expected: str
    run_id: str = ""
    events: list[str] = field(default_factory=list)
    outcome: str | None = None


class _Demo:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._runs: list[_DemoRun] = []
        self._unverified = 0

    async def play(self) -> int:
        secret = new_secret()
        say = self._console.print
        with tempfile.TemporaryDirectory(prefix="runbridge-demo-") as folder:
            async with contextlib.AsyncExitStack() as stack:
                python = [sys.executable, "-m"]
                providers = await stack.enter_async_context(
                    _process(*python, "bridge.sandbox", "providers", "--port", "0")
                )
                receiver = await stack.enter_async_context(
                    _process(*python, "bridge.sandbox", "receiver", "--port", "0", "--secret", secret)
                )
                say(f"providers  four pretended APIs at {providers['url']}")
                say(f"receiver   verifies every signature at {receiver['url']}")
                config = _write_config(Path(folder), providers["providers"], receiver["url"], secret)
                api = await stack.enter_async_context(_daemon(config, Path(folder) / "daemon.log"))
                say(f"daemon     runbridge serve, SQLite, API at {api}\n")
                async with aiohttp.ClientSession(trust_env=False) as http:
                    await self._register(http, providers["url"], api)
                    await self._listen(http, receiver["received"])
        self._report()
        return 0 if self._is_complete() and not self._unverified else 1

    async def _register(self, http: aiohttp.ClientSession, providers: str, api: str) -> None:
        for provider, workflow, run_body, expected in DEMO_RUNS:
            async with http.post(f"{providers}/_control/runs", json={"provider": provider, **run_body}) as made:
                theirs = (await made.json())["id"]
            watched = _DemoRun(provider, workflow, expected)
            body = {
                "connection": provider,
                "provider_run_id": theirs,
                "workflow_id": workflow,
                "metadata": {"demo": True},
            }
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with http.post(f"{api}/v1/runs", json=body, headers=headers) as answer:
                shown = await answer.json()
                if answer.status != 201:
                    raise RuntimeError(f"POST /v1/runs answered {answer.status}: {shown}")
                watched.run_id = shown["id"]
            self._runs.append(watched)
        faults = {"provider": "dify", "kind": "502", "count": 2}
        async with http.post(f"{providers}/_control/faults", json=faults):
            pass
        self._console.print(
            f"{len(self._runs)} runs registered with POST /v1/runs; one was over before, and dify answers 502 twice now.\n"
        )

    async def _listen(self, http: aiohttp.ClientSession, received: str) -> None:
        seen = 0
        give_up_at = time.monotonic() + TIME_MAX_S
        while not self._is_complete() and time.monotonic() < give_up_at:
            async with http.get(received, params={"skip": str(seen)}) as answer:
                arrived = (await answer.json())["data"]
            seen += len(arrived)
            for one in arrived:
                self._show(one)
            await asyncio.sleep(0.2)

    def _show(self, one: dict[str, Any]) -> None:
        event = json.loads(one["body"])
        run = event["data"]["run"]
        watched = next((w for w in self._runs if run and w.run_id == run["id"]), None)
        if watched is None:
            return
        watched.events.append(event["type"])
        self._unverified += not one["verified"]
        mark = "[green]✓ verified[/green]" if one["verified"] else "[red]✗ signature[/red]"
        outcome = f" → {run['status']}" if event["type"] == "run.finished" else ""
        if outcome:
            watched.outcome = run["status"]
        self._console.print(
            f"{self._elapsed():5.1f} s  {mark}  {event['type']:13}{outcome:13} {watched.provider} {watched.workflow}"
        )

    def _is_complete(self) -> bool:
        return bool(self._runs) and all(watched.outcome is not None for watched in self._runs)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _report(self) -> None:
        table = Table(title=f"\n{len(self._runs)} runs in {self._elapsed():.0f} s", title_justify="left")
        for heading in ("provider", "workflow", "events heard", "outcome"):
            table.add_column(heading)
        for watched in self._runs:
            colour = "green" if watched.outcome == watched.expected else "red"
            events = " ".join(name.removeprefix("run.") for name in watched.events)
            table.add_row(
                watched.provider, watched.workflow, events, f"[{colour}]{watched.outcome or 'missing'}[/{colour}]"
            )
        self._console.print(table)
        if not self._is_complete():
            self._console.print("[red]Not every run.finished arrived in time.[/red]")
            return
        command = own_command()
        self._console.print("\nEvery finish was noticed, signed, posted and verified. What to do next:")
        for arguments, does in NEXT_STEPS:
            self._console.print(f"  {command} {arguments:<16}{does}", soft_wrap=True)


def own_command() -> str:
    """The command for this installation of runbridge: its name where PATH finds it, otherwise its path."""
    own = Path(sys.executable).with_name("runbridge")
    found = shutil.which("runbridge")
    if found and Path(found).resolve() == own.resolve():
        return "runbridge"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd() / ".venv") else str(own)


def _write_config(folder: Path, providers: dict[str, str], receiver: str, secret: str) -> Path:
    path = folder / "config.toml"
    lines = [
        '[server]\nlisten = "127.0.0.1:0"',
        f'api_token = "{TOKEN}"',
        f'[database]\nurl = "sqlite:///{folder}/demo.db"',
        f'[endpoints.demo]\nurl = "{receiver}"\nsecret = "{secret}"',
        '[cadence]\nmax_interval = "2s"',
        '[log]\nformat = "json"',
    ]
    for name, url in providers.items():
        lines.append(f'[connections.{name}]\nprovider = "{name}"\nbase_url = "{url}"\napi_key = "sandbox-key"')
    path.touch(0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def _environ() -> dict[str, str]:
    """The environment without ours, in which Python finds this package: the Debian package is on no usual path."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RUNBRIDGE_")}
    return {**mine, "PYTHONPATH": str(Path(__file__).parents[2])}


@contextlib.asynccontextmanager
async def _process(*command: str) -> AsyncIterator[dict[str, Any]]:
    """Run a sandbox process; yields the line of JSON that it prints when it is ready."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=_environ())
    try:
        assert process.stdout is not None
        line = await _started(process.stdout.readline(), " ".join(command[2:4]))
        if not line:
            raise RuntimeError(f"{' '.join(command[1:])} did not start")
        yield json.loads(line)
    finally:
        await _end(process)


@contextlib.asynccontextmanager
async def _daemon(config: Path, log: Path) -> AsyncIterator[str]:
    """Run the daemon as a process; yields the address of its API."""
    command = [sys.executable, "-m", "bridge", "serve", "--config", str(config)]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stderr=output, env=_environ())
    try:
        yield await _started(_address_in(log, process), "the daemon")
    finally:
        await _end(process)


async def _started(sign: Awaitable[T], what: str) -> T:
    """The sign that a process has started; RuntimeError if it does not come."""
    try:
        return await asyncio.wait_for(sign, START_MAX_S)
    except TimeoutError:
        advice = "this machine seems to be busy; try again"
        raise RuntimeError(f"{what} did not start within {START_MAX_S:.0f} s; {advice}") from None


async def _address_in(log: Path, process: asyncio.subprocess.Process) -> str:
    while process.returncode is None:
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == "daemon.started":
                    return f"http://{said['listen']}"
        await asyncio.sleep(0.05)
    raise RuntimeError(f"runbridge serve ended: {log.read_text().strip()}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_MAX_S)
        except TimeoutError:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    sys.exit(main())
