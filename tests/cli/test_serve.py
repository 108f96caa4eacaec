"""The `serve`, `init` and `nodes` commands."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.installation import RUNBRIDGE
from tests.support.ports import free_port


def test_init_writes_a_private_file_that_loads_and_never_overwrites(cli):
    first = cli("init", "mine.toml")
    assert first.code == 0
    assert stat.S_IMODE(Path("mine.toml").stat().st_mode) == 0o600
    before = Path("mine.toml").read_text()
    again = cli("init", "mine.toml")
    assert again.code == 1
    assert "mine.toml" in again.err
    assert Path("mine.toml").read_text() == before
    assert cli("config", "check", "--config", "mine.toml").code == 0


def test_what_init_writes_without_a_path_is_found_by_itself(cli):
    assert cli("init").code == 0
    checked = cli("config", "check")
    assert checked.code == 0
    assert ".config/runbridge/config.toml" in checked.out


def test_serve_with_a_mistake_gives_no_traceback(cli, tmp_path):
    (tmp_path / "x.toml").write_text("[server\n")
    result = cli("serve", "--config", tmp_path / "x.toml")
    assert result.code in (1, 2)
    assert "line 1" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_a_second_daemon_on_the_same_database_is_refused_with_one_sentence(cli, running):
    done = subprocess.run(
        [*RUNBRIDGE, "serve", "--config", str(running.config), "--listen", f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "another runbridge" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_daemon_that_answers_is_listed(bridge, running) -> None:
    (node,) = bridge("nodes", "--json").json["data"]
    result = bridge("nodes")
    assert result.code == 0
    heading, line = result.out.splitlines()
    assert heading.split()[:3] == ["NODE", "HOST", "PID"]
    assert line.split()[:3] == [node["id"], node["host"], str(node["pid"])]
    assert "alive" in line
