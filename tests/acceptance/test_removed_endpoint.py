"""An endpoint that leaves the configuration file with deliveries that it still had to get."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.sandbox import Scenario
from tests.support.daemon_setup import daemon_setup

pytestmark = pytest.mark.slow


async def test_what_it_still_had_to_get_is_said_in_the_log(tmp_path: Path) -> None:
    async with daemon_setup(tmp_path, "dify", endpoints=("kept", "gone")) as setup:
        daemon = setup.daemon
        daemon.config["endpoints"]["gone"]["url"] = "http://127.0.0.1:9/refused"
        async with daemon:
            await setup.register(Scenario(duration_s=0))
            await setup.wait_for_posts(1, "/kept")
            del daemon.config["endpoints"]["gone"]
            await daemon.reload()
            (line,) = daemon.log_lines("endpoint.removed")
            assert (line["endpoint"], line["level"]) == ("gone", "warning")
            assert line["discarded_deliveries"] >= 1
            assert "configuration file" in line["reason"]
