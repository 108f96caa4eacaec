"""The systemd unit: valid, tight, and in step with the daemon."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import daemon, process
from bridge.runtime import loop, systemd

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "runbridge.service"
EXPOSURE_MAX_TENTHS = 15


def settings() -> dict[str, str]:
    """The unit's settings; of one that is given twice, the last."""
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w*=", line))


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """With a program that exists here in the place of ours, because `verify` looks for it."""
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = analyze("verify", copy)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_verify_would_have_complained(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("DynamicUser=yes", "DynamicUsr=yes"))
    assert "DynamicUsr" in analyze("verify", copy).stderr


def test_the_exposure_is_at_most_1_5() -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX_TENTHS}", UNIT)
    assert done.returncode == 0, done.stdout[-300:]
    assert analyze("security", "--offline=true", "--threshold=1", UNIT).returncode != 0  # the threshold is looked at


def test_every_hardening_line_says_what_it_is_for() -> None:
    lines = UNIT.read_text().partition("# --- What it may see")[2].partition("[Install]")[0].splitlines()
    silent = [
        line
        for before, line in itertools.pairwise(lines)
        # SystemCallErrorNumber belongs to the filter above it.
        if "=" in line and not line.startswith(("#", "SystemCallErrorNumber")) and not before.startswith("# ")
    ]
    assert silent == []


def test_systemd_waits_longer_than_the_daemon_drains() -> None:
    assert int(settings()["TimeoutStopSec"]) >= daemon.DRAIN_S + 10


@pytest.mark.slow
def test_a_faulty_configuration_is_not_restarted_for_ever(tmp_path: Path) -> None:
    """The exit code of a refused start under a service manager is one that the unit does not restart."""
    faulty = tmp_path / "config.toml"
    faulty.write_text("[server]\nlistn = 1\n")
    ended = [
        subprocess.run(
            [sys.executable, "-m", "bridge", "serve", "--config", str(faulty)],
            cwd=UNIT.parents[1], env=more, check=False, capture_output=True, text=True,
        )
        for more in ({"NOTIFY_SOCKET": str(tmp_path / "notify")}, {})
    ]  # fmt: skip
    assert [one.returncode for one in ended] == [process.EXIT_CONFIG, 1]
    assert all("server.listn" in one.stderr for one in ended)
    assert settings()["RestartPreventExitStatus"] == str(process.EXIT_CONFIG)


def test_a_resting_loop_reports_well_before_the_watchdog_bites() -> None:
    assert systemd.SILENCE_MAX_S >= 2 * loop.REST_MAX_S
    assert int(settings()["WatchdogSec"]) >= 2 * loop.REST_MAX_S


def test_the_daemon_writes_only_where_systemd_keeps_it_private() -> None:
    unit = settings()
    assert (unit["StateDirectory"], unit["StateDirectoryMode"]) == ("runbridge", "0700")
    assert (unit["DynamicUser"], unit["ProtectSystem"], unit["NotifyAccess"]) == ("yes", "strict", "main")
