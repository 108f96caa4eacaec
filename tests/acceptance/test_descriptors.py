"""Clients that hold connections, and a process that may open few files."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow


async def test_idle_connections_neither_stop_the_api_nor_fill_the_log(tmp_path: Path) -> None:
    """600 of them at `ulimit -n 256` stopped /healthz and wrote 188 MB of log in a minute."""
    daemon = DaemonProcess(tmp_path)
    daemon.descriptors_max = 256
    async with daemon, contextlib.AsyncExitStack() as held:
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        for _ in range(600):
            _, writer = await asyncio.open_connection(host, int(port))
            held.callback(writer.close)
        for _ in range(20):
            assert await daemon.ask("GET", "/healthz")
            assert await daemon.ask("GET", "/v1/connections")
        assert daemon.log_lines("connections.capped")
        assert daemon.log_lines("library.said") == []
        assert daemon.log_size < 100_000


async def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path) as daemon:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
        soft, hard = (int(each) for each in line.split()[3:5])
        assert soft >= min(65_536, hard)
