"""A node that was evicted: it drops its work and goes on under a new id."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from bridge.config.load import load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SteadyClock
from bridge.domain.encryption import new_key
from bridge.domain.errors import StoreUnavailable
from bridge.sandbox import Sandbox, Scenario
from bridge.store import nodes, run_leases
from bridge.store.transaction import Tx
from tests.support.daemon_process import DaemonProcess
from tests.support.watching import register
from tests.support.workbench import settled


async def test_every_connection_is_polled_again_although_the_database_failed_while_the_node_started_over(
    postgresql_url: str, tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database that was away for longer than the lease is likely to be away again."""
    written = DaemonProcess(tmp_path, postgresql_url, secrets={"key": new_key()})
    for name in ("one", "two", "three"):
        written.add_connection(name, "dibby", sandbox.url("dibby"))
    written.write_config()
    config = load_config(written.config_path, env={}, flags={})
    daemon = Daemon(config, SteadyClock(), read_config=lambda: config)
    async with daemon.workers:
        try:
            await daemon.start()
            fails, clamp_due = [False, True], run_leases.clamp_due

            def clamp_or_fail(tx: Tx, connection: str, latest: datetime) -> int:
                if fails and fails.pop(0):
                    raise StoreUnavailable("the connection broke")
                return clamp_due(tx, connection, latest)

            monkeypatch.setattr(run_leases, "clamp_due", clamp_or_fail)
            evicted = daemon.node
            await daemon.database.write(lambda tx: nodes.evict(tx, [evicted]))
            made = [
                await register(
                    daemon.database,
                    sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)),
                    connection=name,
                    provider="dibby",
                )
                for name in config.connections
            ]
            async with asyncio.timeout(60):
                for run in made:
                    while await settled(daemon.database, run.id) is None:
                        await asyncio.sleep(0.05)
            assert not fails
            assert daemon.node != evicted
        finally:
            await daemon.stop()
