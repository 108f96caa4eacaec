"""The simulation itself: lives keep every promise, repeat exactly, and find planted faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mutation.planted import PLANTED
from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS
from tests.simulation.planting import ROOT


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_no_promise_is_broken_in_eight_lives() -> None:
    done = simulate("--seeds", "1-8", "--hours", "1", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "8 lives of 1 h, 0 with a broken promise" in done.stdout


@pytest.mark.slow
def test_the_same_seed_is_the_same_life() -> None:
    first, again = (simulate("--seeds", "11", "--hours", "1").stdout for _ in range(2))
    assert first == again
    assert "trace" in first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mark-before-send", "sequence-from-clock"])
def test_a_planted_fault_is_found(name: str) -> None:
    done = simulate("--mutant", name, "--seeds", "1-8", "--hours", "1", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found by life" in done.stdout


@pytest.mark.parametrize("mutant", [*MUTANTS, *(planted.mutant for planted in PLANTED)], ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_stands_there_once(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    for text, instead in ((mutant.text, mutant.instead), *mutant.more):
        assert source.count(text) == 1
        source = source.replace(text, instead)
    compile(source, mutant.file, "exec")
