"""Faults for mutation testing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.sites import find_sites

SOURCE = '''
"""A module."""
import log

def wait(at: int = 3) -> int | None:
    log.info("it is 1 o'clock")
    if at < 2 and not at:
        raise ValueError(1)
    this.at = at + 1
    return min(at, 5)
'''


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "module.py").write_text(SOURCE)
    return tmp_path / "module.py"


def test_each_fault_changes_one_place_and_no_message(module: Path) -> None:
    changed = {(site.before, site.after) for site in find_sites(module)}
    assert changed == {
        ("3", "4"),
        ("if at < 2 and (not at):", "if not (at < 2 and (not at)):"),
        ("at < 2 and (not at)", "at < 2 or not at"),
        ("at < 2", "at <= 2"),
        ("at < 2", "at >= 2"),
        ("2", "3"),
        ("not at", "at"),
        ("this.at = at + 1", "pass"),
        ("at + 1", "at - 1"),
        ("1", "2"),
        ("return min(at, 5)", "return None"),
        ("min(at, 5)", "max(at, 5)"),
        ("5", "6"),
    }


def test_each_fault_is_a_module_of_its_own(module: Path) -> None:
    sources = [site.source() for site in find_sites(module)]
    assert len(set(sources)) == len(sources)
    for source in sources:
        compile(source, "module.py", "exec")
