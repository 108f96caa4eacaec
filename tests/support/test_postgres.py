"""The PostgreSQL of the tests is a real one: a normal user's, durable, and gone when it should be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.postgres import Postgres


def test_it_runs_as_a_normal_user_and_syncs_to_disk(postgres: Postgres) -> None:
    assert postgres.execute("SHOW fsync") == "on"
    first_line = postgres.execute("SELECT (string_to_array(pg_read_file('postmaster.pid'), E'\\n'))[1]")
    assert Path(f"/proc/{first_line}").stat().st_uid != 0


def test_each_database_is_fresh(postgres: Postgres) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    postgres.execute("CREATE TABLE left_behind (i int)", first.rsplit("/", 1)[1])
    count = "SELECT count(*) FROM pg_tables WHERE tablename = 'left_behind'"
    assert postgres.execute(count, second.rsplit("/", 1)[1]) == "0"
    postgres.drop_database(first)
    postgres.drop_database(second)


@pytest.mark.slow
def test_what_was_committed_outlives_a_power_cut() -> None:
    with Postgres() as server:
        name = server.create_database().rsplit("/", 1)[1]
        server.execute("CREATE TABLE kept (i int)", name)
        server.kill()
        server.restart()
        assert server.execute("SELECT count(*) FROM kept", name) == "0"


@pytest.mark.slow
def test_it_dies_with_a_test_run_that_is_killed() -> None:
    """Otherwise every aborted run would leave a server behind on the developer's machine."""
    script = (
        "import time\nfrom tests.support.postgres import Postgres\n"
        "p = Postgres()\np.start()\nprint(p.pid, p.home, flush=True)\ntime.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    ) as run:
        assert run.stdout is not None
        pid, home = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_running(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(pid))
    shutil.rmtree(home)  # the next run would do it


def is_running(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
