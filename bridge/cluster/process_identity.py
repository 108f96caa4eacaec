"""What tells a process apart from every other, so that others on its machine can be certain that it is gone.

A daemon that was killed and comes back need not wait for the lease of the one before. Certain means: the same
boot of the same machine, the same view of its processes, and no process of that number and start there any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_STARTED, _STATE = 19, 0  # fields of /proc/PID/stat behind the name: `starttime` and `state`
_ENDED: Final = frozenset("ZXx")  # killed, though its parent has not taken notice yet


def own_identity() -> str:
    """The mark of this process; empty where the system tells nothing, and then nobody is ever certain."""
    try:
        return f"{_view()} {os.getpid()} {_stat(os.getpid())[_STARTED]}"
    except (OSError, IndexError):
        return ""


def is_surely_dead(mark: str) -> bool:
    """Whether the process of this mark has ended; False for one that nothing is known of from here."""
    boot_and_view, _, rest = mark.partition(" ")
    pid, _, started = rest.partition(" ")
    try:
        if not pid.isdigit() or boot_and_view != _view():
            return False
        found = _stat(int(pid))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, IndexError):
        return False
    return found[_STARTED] != started or found[_STATE] in _ENDED


def _view() -> str:
    """This boot of this machine, and the numbering of processes that we see."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"


def _stat(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
