"""The memory left: of the machine, and of each control group above the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.runtime.memory import LOW_BYTES, available_bytes, check_memory

MB = 1_000_000


def machine(root: Path, available: int, group: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1000000 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(f"{group}\n")


def limited(root: Path, folder: str, version: int, *, limit: str, used: int, cached: int = 0) -> None:
    place = root / "sys/fs/cgroup" / folder
    place.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (place / names[0]).write_text(f"{limit}\n")
    (place / names[1]).write_text(f"{used}\n")
    (place / "memory.stat").write_text(f"{'inactive_file' if version == 2 else 'total_inactive_file'} {cached}\n")


def test_the_machine_alone_counts_where_no_group_has_a_limit(tmp_path: Path) -> None:
    machine(tmp_path, 512 * 1024 * 1024, "0::/system.slice/runbridge.service")
    limited(tmp_path, "system.slice/runbridge.service", 2, limit="max", used=100 * MB)
    assert available_bytes(tmp_path) == 512 * 1024 * 1024


@pytest.mark.parametrize("folder", ["system.slice/runbridge.service", "system.slice", ""])
def test_the_limit_of_the_unit_or_of_a_group_above_it_counts(tmp_path: Path, folder: str) -> None:
    machine(tmp_path, 512 * 1024 * 1024, "0::/system.slice/runbridge.service")
    limited(tmp_path, folder, 2, limit=str(200 * MB), used=180 * MB, cached=30 * MB)
    assert available_bytes(tmp_path) == 50 * MB, "the kernel gives cached files back"


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    machine(tmp_path, 512 * 1024 * 1024, "4:cpu,memory:/docker/1")
    limited(tmp_path, "memory/docker/1", 1, limit=str(2**63 - 4096), used=1)
    assert available_bytes(tmp_path) == 512 * 1024 * 1024
    limited(tmp_path, "memory", 1, limit=str(100 * MB), used=90 * MB)
    assert available_bytes(tmp_path) == 10 * MB


def test_too_little_is_wrong_and_says_what_to_do(tmp_path: Path) -> None:
    assert check_memory(tmp_path).is_good is True, "where nothing tells, nothing is wrong"
    machine(tmp_path, LOW_BYTES // 2, "0::/")
    found = check_memory(tmp_path)
    assert found.is_good is False
    assert "32 MB are left" in found.detail
    assert "MemoryMax=" in found.detail


def test_this_machine_says_what_is_left() -> None:
    assert MB < available_bytes() < 10**15
