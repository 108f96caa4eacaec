"""The memory that this process may still take: of the machine, and of the control groups that limit it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from bridge.domain.finding import Finding

LOW_BYTES: Final = 64_000_000
_ROOT: Final = Path("/")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2: Final = ("memory.max", "memory.current", "inactive_file")


def check_memory(root: Path = _ROOT) -> Finding:
    """Whether there is room for more."""
    available = available_bytes(root)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    used = f"the daemon took {resident / 1e6:.0f} MB at most"
    if available == float("inf"):
        return Finding(True, "memory", used)
    text = f"{used}, {available / 1e6:.0f} MB are left"
    if available >= LOW_BYTES:
        return Finding(True, "memory", text)
    advice = "end what else uses them, or raise the limit (MemoryMax= of the unit, that of the container)"
    return Finding(False, "memory", f"{text}, and without memory the kernel ends the daemon; {advice}")


def available_bytes(root: Path = _ROOT) -> float:
    """The least of what the machine and each control group have left; infinite where nothing tells."""
    return min([float("inf"), *_of_machine(root), *_of_groups(root)])


def _of_machine(root: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024.0


def _of_groups(root: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
                for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
                    yield from _of_group(base / str(folder).lstrip("/"), _V1 if controllers else _V2)


def _of_group(folder: Path, names: tuple[str, str, str]) -> Iterator[float]:
    """The bytes left below its limit; none without one. Files that the kernel may drop from its cache are not used."""
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((folder / name).read_text().strip() for name in names[:2])
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        if limit != "max":
            yield max(0.0, float(limit) - float(used) + float(statistics.get(names[2], 0)))
