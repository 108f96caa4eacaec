"""Daemons as processes that need no second for their imports: each is forked from one that has everything imported.

`python -m tests.simulation.nursery` reads `[CONFIG, LOG, POINT, PASSES, FOLDER]`, one JSON array a line, and answers
`[pid, null]` when the daemon was forked, and `[pid, exit code]` when it ended: a negative one is a signal.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, Self

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def main() -> None:
    """Fork daemons until standard input ends."""
    from bridge.cli.serve import absent

    with absent("rich"):
        import structlog  # noqa: F401 - as `runbridge serve` imports it
    import asyncpg  # noqa: F401 - imported when a database is opened
    import cryptography.hazmat.primitives.asymmetric.ed25519
    import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401 - imported when there is a secret

    import bridge.process
    import bridge.store.postgres.engine  # noqa: F401

    gc.collect()
    gc.freeze()
    gc.disable()  # as `runbridge serve` does
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        config, log, point, passes, folder = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # its start is reported before its end
        if (pid := os.fork()) == 0:
            _live(config, log, point, passes, folder)
        _say(pid, None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _live(config: str, log: str, point: str, passes: int, folder: str) -> None:
    """Be the daemon."""
    code = 70
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, file in enumerate((nothing, said, said)):
            os.dup2(file, number)
        if point:
            from tests.simulation.kill_points import arm

            arm(point, passes, Path(folder))
        from bridge.process import main as serve

        code = serve(Path(config), {})
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _reap(*_: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say(pid, os.waitstatus_to_exitcode(status))


def _say(*answer: int | None) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


class Nursery:
    """Runs the program above for a test; an async context manager. Its forked processes end with it."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._forked: asyncio.Queue[int] = asyncio.Queue()
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._turn = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.simulation.nursery"),
            stdin=PIPE,
            stdout=PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("RUNBRIDGE_")},
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            pid, code = json.loads(line)
            if code is None:
                self._ends[pid] = asyncio.get_running_loop().create_future()
                self._forked.put_nowait(pid)
            else:
                self._ends[pid].set_result(code)

    async def fork(self, config: Path, log: Path, *, point: str = "", passes: int = 1, folder: Path) -> int:
        """A daemon; its process id."""
        assert self._process is not None
        assert self._process.stdin is not None
        async with self._turn:
            command: list[Any] = [str(config), str(log), point, passes, str(folder)]
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            await self._process.stdin.drain()
            return await self._forked.get()

    def ended(self, pid: int) -> asyncio.Future[int]:
        """Done when it has ended, with its exit code."""
        return self._ends[pid]


if __name__ == "__main__":
    main()
