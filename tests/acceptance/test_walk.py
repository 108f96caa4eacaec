"""The walk of one run in docs/architecture.md, compared with the files that a run really enters."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import aiohttp
import pytest

from bridge.config.load import load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SteadyClock
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.sandbox import Receiver, Sandbox, Scenario
from bridge.store import deliveries, runs
from bridge.store.transaction import Tx
from tests.support.manual_clock import ManualClock
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
FILES_MAX = 40
CHORES = (
    *("sandbox/", "daemon.py", "maintenance/", "delivery/replayer.py", "api/counts.py"),
    *("runtime/supervisor.py", "runtime/systemd.py", "store/sqlite/database_file.py", "store/alerts.py"),
    *("store/clock_shift.py", "store/inspection.py", "store/replays.py", "store/retention.py", "store/summary.py"),
)
"""Files of the fakes, and of work that goes on beside any run."""
TOKEN = "t" * 24


def is_delivered(tx: Tx) -> bool:
    """The attempt is recorded with the state of its delivery."""
    return deliveries.count_by_state(tx).get("delivered") == 1


def is_running(tx: Tx) -> bool:
    """A poll has seen the run."""
    return runs.count_active(tx) == {("dibby", "running"): 1}


def files_named() -> tuple[set[str], set[str]]:
    """The files that the page names, as `polling/poller.py`: those of the steps, and those that the steps use."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## The walk of one run")[1].split("\n## ")[0]
    steps = [line for line in section.splitlines() if line.startswith("| **")]
    used = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    return (
        {file for row in steps for file in re.findall(r"\]\(\.\./bridge/([^)]+)\)", row)},
        {f"{room}/{name}.py" for room, names in used for name in names.split(", ")},
    )


@contextmanager
def files_entered() -> Iterator[set[str]]:
    """Collect the files of the package in which a function is called inside the block, on this thread and new ones."""
    entered: set[str] = set()
    package = f"{ROOT}/bridge/"

    def note(frame: FrameType, event: str, _argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(package) and frame.f_code.co_name != "<module>":
            entered.add(file.removeprefix(package))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_a_run_enters_every_file_that_the_documented_walk_names_and_these_are_few(tmp_path: Path) -> None:
    provider_clock = ManualClock(datetime.now(UTC))
    async with Sandbox(clock=provider_clock) as sandbox, Receiver() as receiver:
        path = tmp_path / "runbridge.toml"
        path.touch(0o600)
        path.write_text(
            f'[server]\nlisten = "127.0.0.1:0"\napi_token = "{TOKEN}"\n'
            f'[database]\nurl = "sqlite:///{tmp_path}/walk.db"\n'
            f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{sandbox.url("dibby")}"\napi_key = "sandbox-key"\n'
            f'[endpoints.app]\nurl = "{receiver.url()}"\nevents = ["run.finished"]\nsecret = "{new_secret()}"\n'
        )

        def read_config():
            return load_config(path, env={}, flags={})

        daemon = Daemon(read_config(), SteadyClock(), read_config=read_config)
        with files_entered() as entered:
            async with daemon.workers:
                await daemon.start()
                entered.clear()
                theirs = sandbox.add_run("dibby", scenario=Scenario(duration_s=0.5))
                async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
                    body = {"connection": "dibby", "provider_run_id": theirs}
                    async with http.post(f"http://{daemon.address}/v1/runs", json=body) as response:
                        assert response.status == 201
                await until(lambda: daemon.database.read(is_running), what="a poll before its end")
                provider_clock.advance(1.0)
                await until(lambda: daemon.database.read(is_delivered), what="the attempt")
                walked = set(entered)
                await daemon.stop()
    steps, used = files_named()
    assert steps - walked == set()
    assert {file for file in walked - steps - used if not file.startswith(CHORES)} == set()
    assert 30 < len(steps) <= FILES_MAX
    assert {file for file in steps | used if not (ROOT / "bridge" / file).is_file()} == set()
