"""The daemon as a process of its own, driven from outside: config file, signals, log, HTTP API."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from bridge.domain.signing.hmac_v1 import new_secret

TOKEN = "token-that-must-not-be-seen"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0  # what the systemd unit allows
REQUEST_TIMEOUT_S = 30.0
LOOK_S = 0.02
NAMED_TABLES = ("connections", "endpoints")
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
_FILE_RIGHTS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here, because between fork and exec nothing may be loaded

Config = dict[str, dict[str, Any]]


class DaemonProcess:
    """`runbridge serve` on a free port. `config` may be changed; `write_config` makes the file that is read.

    Its log, over all starts, is the file `daemon.log` in `folder`.
    """

    def __init__(self, folder: Path, database_url: str | None = None, **tables: dict[str, Any]) -> None:
        self.folder = folder
        self.database = folder / "runbridge.db"
        self.config: Config = {
            "server": {"listen": "127.0.0.1:0", "api_token": TOKEN},
            "database": {"url": database_url or f"sqlite:///{self.database}"},
            "log": {"format": "json", "level": "debug"},
            **tables,
        }
        self.url = ""
        self.keeps_to_file_modes = False  # True: root's right to write everywhere is taken away
        self.environ: dict[str, str] = {}  # more variables for the process
        self.descriptors_max: int | None = None  # hard limit of open files
        self._process: Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._log = folder / "daemon.log"
        self._log.touch()

    # -- life

    async def start(self) -> Self:
        """Start, and wait until it says that it listens; AssertionError with its words if it ends instead."""
        await self._launch()
        told = await self.wait_for_log("daemon.started", since=self._started_at)
        self.url = f"http://{told['listen']}"
        return self

    async def run_to_end(self) -> tuple[int, str]:
        """Start a daemon that is to end by itself: its exit code and what it said."""
        process = await self._launch()
        async with asyncio.timeout(START_TIMEOUT_S):
            code = await process.wait()
        return code, self.log_since(self._started_at)

    async def kill(self) -> None:
        """kill -9."""
        process = self._running()
        process.kill()
        await process.wait()
        await self._hang_up()

    def terminate(self) -> None:
        """SIGTERM; `ended` waits for the rest."""
        self._running().send_signal(signal.SIGTERM)

    async def ended(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit code once it has ended."""
        async with asyncio.timeout(timeout_s):
            code = await self._running().wait()
        await self._hang_up()
        return code

    async def stop(self) -> None:
        """SIGTERM, and the clean end that it promises."""
        self.terminate()
        code = await self.ended()
        assert code == 0, f"exit code {code} after SIGTERM: {self.log_since(self._started_at)[-2000:]}"

    async def restart(self) -> Self:
        """Start again after `kill` or `stop`."""
        return await self.start()

    async def reload(self, said: str = "config.reloaded") -> dict[str, Any]:
        """Write the configuration, SIGHUP, and wait until the log has `said`; that line."""
        self.write_config()
        since = self.log_size
        self._running().send_signal(signal.SIGHUP)
        return await self.wait_for_log(said, since=since)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self.is_running:
            await self.kill()
        await self._hang_up()

    async def _launch(self) -> Process:
        self.write_config()
        self._started_at = self.log_size
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RUNBRIDGE_")}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bridge", "serve", "--config", str(self.config_path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ | self.environ,
                preexec_fn=self._before_it_begins,
            )
        return self._process

    def _before_it_begins(self) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with the tests, however these end
        if self.descriptors_max is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors_max, self.descriptors_max))
        if self.keeps_to_file_modes and os.geteuid() == 0:
            for right in _FILE_RIGHTS:
                _libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)

    def _running(self) -> Process:
        assert self._process is not None, "the daemon was never started"
        return self._process

    async def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- configuration

    @property
    def config_path(self) -> Path:
        """The configuration file."""
        return self.folder / "config.toml"

    def write_config(self, text: str | None = None) -> None:
        """Write `config`, or `text` instead of it, readable for the owner alone."""
        self.config_path.touch(0o600)
        self.config_path.write_text(to_toml(self.config) if text is None else text)

    def add_connection(self, name: str, provider: str, url: str, **more: Any) -> None:
        """An account at a sandbox provider that is polled often."""
        table = {"provider": provider, "base_url": url, "api_key": "sandbox-key"}
        quick = {"requests_per_second": 200, "max_in_flight": 16, "min_interval": "100ms", "max_interval": "400ms"}
        self.config.setdefault("connections", {})[name] = table | quick | more

    def add_endpoint(self, name: str, url: str, **more: Any) -> str:
        """A subscriber of the operator's; its signing secret."""
        secret = str(more.pop("secret", None) or new_secret())
        self.config.setdefault("endpoints", {})[name] = {"url": url, "secret": secret} | more
        return secret

    # -- log

    @property
    def log_size(self) -> int:
        """Bytes of log so far: a mark for `since`."""
        return self._log.stat().st_size

    def log_since(self, since: int = 0) -> str:
        """Its standard output and error behind that mark."""
        with self._log.open("rb") as log:
            log.seek(since)
            return log.read().decode()

    def log_lines(self, event: str | None = None, *, since: int = 0) -> list[dict[str, Any]]:
        """The structured lines, all or those of one event."""
        lines = []
        for line in self.log_since(since).splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and event in (None, said.get("event")):
                    lines.append(said)
        return lines

    async def wait_for_log(
        self, event: str, *, since: int = 0, timeout_s: float = START_TIMEOUT_S, **fields: object
    ) -> dict[str, Any]:
        """The first line of this event behind the mark with these fields; AssertionError if the daemon stays silent."""
        deadline = time.monotonic() + timeout_s
        while True:
            has_ended = not self.is_running
            found = [line for line in self.log_lines(event, since=since) if fields.items() <= line.items()]
            if found:
                return found[0]
            said = self.log_since(since)[-2000:]
            assert not has_ended, f"the daemon ended before {event}: {said}"
            assert time.monotonic() < deadline, f"no {event} within {timeout_s:g} s: {said}"
            await asyncio.sleep(LOOK_S)

    # -- API

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request with the token: status, headers (lower case), body. `body` bytes are sent as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        own = {"Authorization": f"Bearer {TOKEN}"} | ({"Content-Type": "application/json"} if body is not None else {})
        async with self._client().request(
            method,
            self.url + path,
            data=data,
            headers={**own, **(headers or {})},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as answer:
            told = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, told, await answer.read()

    async def ask(self, method: str, path: str, body: object = None, *, status: int = 200, **more: Any) -> Any:
        """One request whose answer must have this status; its JSON, None where there is no body."""
        got, _, answer = await self.call(method, path, body, **more)
        assert got == status, f"{method} {path} answered {got}: {answer.decode(errors='replace')[:2000]}"
        return json.loads(answer) if answer else None

    async def register(
        self, connection: str, provider_run_id: str, *, status: int = 201, **more: Any
    ) -> dict[str, Any]:
        """POST /v1/runs; the answer."""
        wanted = {"connection": connection, "provider_run_id": provider_run_id, **more}
        answer: dict[str, Any] = await self.ask("POST", "/v1/runs", wanted, status=status)
        return answer

    async def finish_of(self, run_id: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The run once it is settled, by the wait call; AssertionError if it does not settle in time."""
        run: dict[str, Any] = await self.ask(
            "GET", f"/v1/runs/{run_id}/wait?timeout={timeout_s:g}", timeout_s=timeout_s + REQUEST_TIMEOUT_S
        )
        assert run["settled"], f"not settled within {timeout_s:g} s: {run}"
        return run

    async def all_events(self, **query: str) -> list[dict[str, Any]]:
        """The whole pull feed, page by page."""
        events: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            given = "&".join(
                f"{key}={value}" for key, value in {**query, **({"after": after} if after else {})}.items()
            )
            page = await self.ask("GET", f"/v1/events?limit=200&{given}")
            if not page["data"]:
                return events
            events += page["data"]
            after = page["next_cursor"]

    async def eventually(self, path: str, holds: Callable[[Any], bool], *, timeout_s: float = 60.0) -> Any:
        """The answer of GET `path` as soon as `holds` says so of it."""
        deadline = time.monotonic() + timeout_s
        while not holds(answer := await self.ask("GET", path)):
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s; GET {path} answers {answer}"
            await asyncio.sleep(LOOK_S)
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, **headers: str) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
        """GET /v1/events/stream: its messages as dictionaries of fields."""
        own = {"Authorization": f"Bearer {TOKEN}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self._client().get(f"{self.url}/v1/events/stream", headers=own) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            yield _messages(answer.content)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession()
        return self._session


async def _messages(lines: aiohttp.StreamReader) -> AsyncIterator[dict[str, str]]:
    """The messages of an event stream; comments and `retry` alone make none."""
    message: dict[str, str] = {}
    async for raw in lines:
        line = raw.decode().rstrip("\n")
        if not line:
            if "data" in message:
                yield message
            message = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            message[name] = value


def to_toml(config: Config) -> str:
    """The configuration as TOML: tables of plain values, and tables of such tables by name."""
    lines: list[str] = []
    for section, table in config.items():
        if section in NAMED_TABLES:
            for name, inner in table.items():
                lines += [f"[{section}.{json.dumps(name)}]", *_pairs(inner)]
        else:
            lines += [f"[{section}]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)  # JSON's plain values are TOML's too
