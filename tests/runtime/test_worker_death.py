"""A worker of the real daemon dies: the process ends, and says why."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess

SERVE_WITH_A_FAULT = """
import sys
from bridge.cli import main
from bridge.maintenance import deadlines
deadlines.EVERY_S = "soon"  # no number: its loop cannot rest
sys.exit(main())
"""


@pytest.mark.slow
async def test_the_daemon_stops_cleanly_with_exit_code_1_and_the_reason(tmp_path: Path) -> None:
    """Exit code 1, so that systemd restarts it; cleanly, so that the next start finds nothing leased."""
    daemon = DaemonProcess(tmp_path)
    daemon.write_config()
    command = [sys.executable, "-c", SERVE_WITH_A_FAULT, "serve", "--config", str(daemon.config_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    *lines, sentence = done.stderr.splitlines()
    logged = [json.loads(line) for line in lines]
    (died,) = [line for line in logged if line["event"] == "worker.died"]
    assert (died["worker"], died["level"]) == ("deadlines", "error")
    assert "TypeError" in died["reason"]
    assert "TypeError" in died["exception"]
    assert sentence.startswith("runbridge: the worker 'deadlines' died (TypeError")
    assert "Traceback" not in done.stdout
    async with daemon:
        assert await daemon.ask("GET", "/readyz")
