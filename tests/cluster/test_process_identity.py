"""The identity of a process: certain only that one has ended which ran on this machine, in this boot."""

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
    """Another process and its identity."""
    told = "import sys, time; from bridge.cluster.process_identity import own_identity; print(own_identity(), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_running_process_is_alive_and_so_is_a_stopped_one(other: tuple[subprocess.Popen[str], str]) -> None:
    process, identity = other
    assert not is_surely_dead(own_identity())
    assert not is_surely_dead(identity)
    process.send_signal(signal.SIGSTOP)
    assert not is_surely_dead(identity)


def test_a_killed_process_is_dead_before_and_after_its_parent_waits_for_it(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    process, identity = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the list of processes
    assert is_surely_dead(identity)
    process.wait()
    assert is_surely_dead(identity)


def test_a_process_id_that_was_given_to_another_process_is_no_sign_of_life() -> None:
    view, pid, started = own_identity().split()
    assert is_surely_dead(f"{view} {pid} {int(started) - 1}")


@pytest.mark.parametrize(
    "identity", ["", "x", "0/1 1 1", pytest.param(f"{own_identity().split()[0]} none 1", id="no number"), "a b c d"]
)
def test_a_process_of_another_machine_boot_or_namespace_is_never_certainly_dead(identity: str) -> None:
    assert not is_surely_dead(identity)
