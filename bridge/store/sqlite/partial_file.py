"""Files that are written under a temporary name first: that name, and what a killed process left under one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def path_for(target: Path) -> Path:
    """Where this process writes what is to become `target`."""
    return target.with_name(f".{target.name}.partial-{os.getpid()}")


def delete_abandoned(folder: Path, name: str) -> None:
    """Delete the partial files for `name` (a glob) of processes that have ended, and of earlier ones with our id."""
    for left in folder.glob(f".{name}.partial-*"):
        pid = left.name.rpartition("-")[2]
        if pid == str(os.getpid()) or not (pid.isdigit() and Path("/proc", pid).exists()):
            with contextlib.suppress(OSError):
                left.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
