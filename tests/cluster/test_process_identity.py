"""Marks of processes: certain only of what has ended, on this machine, since it was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bridge.cluster.process_identity import is_surely_dead, own_identity


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process and its mark."""
    told = "import sys, time; from bridge.cluster.process_identity import own_identity; print(own_identity(), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_who_runs_is_alive_and_so_is_who_was_only_stopped(other: tuple[subprocess.Popen[str], str]) -> None:
    process, mark = other
    assert not is_surely_dead(own_identity())
    assert not is_surely_dead(mark)
    process.send_signal(signal.SIGSTOP)
    assert not is_surely_dead(mark)


def test_who_was_killed_is_dead_before_and_after_its_parent_took_notice(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    process, mark = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the list of processes
    assert is_surely_dead(mark)
    process.wait()
    assert is_surely_dead(mark)


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life() -> None:
    view, pid, started = own_identity().split()
    assert is_surely_dead(f"{view} {pid} {int(started) - 1}")


@pytest.mark.parametrize(
    "mark", ["", "x", "0/1 1 1", pytest.param(f"{own_identity().split()[0]} none 1", id="no number"), "a b c d"]
)
def test_of_another_machine_boot_or_view_nothing_is_certain(mark: str) -> None:
    assert not is_surely_dead(mark)
