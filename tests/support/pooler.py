"""Debian's pgbouncer before the PostgreSQL of the tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.ports import free_port

NOBODY = 65534
START_S = 60.0
POOL_SIZE = 100  # connections to the server; in session mode one for each client, also for one that has gone silent


@asynccontextmanager
async def pgbouncer(url: str, *, mode: str) -> AsyncIterator[str]:
    """The same database by way of a pgbouncer in this `pool_mode`."""
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which every session closes to other users again
        async with _pgbouncer(url, Path(folder), mode) as pooled:
            yield pooled


@asynccontextmanager
async def _pgbouncer(url: str, folder: Path, mode: str) -> AsyncIterator[str]:
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program is not None, "`make test` installs pgbouncer"
    server, _, database = url.rpartition("/")
    host_port = server.rpartition("@")[2]
    port = free_port()
    users, settings = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text('"postgres" ""\n')
    settings.write_text(
        f"[databases]\n{database} = host={host_port.split(':')[0]} port={host_port.split(':')[1]}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nauth_file = {users}\n"
        f"pool_mode = {mode}\nunix_socket_dir =\ndefault_pool_size = {POOL_SIZE}\n"
    )
    command = [program, str(settings)]
    if os.geteuid() == 0:  # it refuses to run as root
        folder.chmod(0o755)
        users.chmod(0o644)  # whatever the umask is
        settings.chmod(0o644)
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await _listens(port)
        yield f"postgresql://postgres@127.0.0.1:{port}/{database}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


async def _listens(port: int) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
