"""Identity of a process, by which another process on the same machine can be certain that it has ended.

A daemon that was killed and started again need not wait for the lease of its predecessor. Certain means: the same boot
of the same machine, the same process id namespace, and no process with that id and start time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_STARTED, _STATE = 19, 0  # fields of /proc/PID/stat behind the name: `starttime` and `state`
_ENDED: Final = frozenset("ZXx")  # ended, though its parent has not waited for it yet


def own_identity() -> str:
    """The identity of this process; empty where /proc does not show it: such a process never counts as dead."""
    try:
        return f"{_boot_and_namespace()} {os.getpid()} {_stat(os.getpid())[_STARTED]}"
    except (OSError, IndexError):
        return ""


def boot_id() -> str:
    """The boot id of this machine, with which every `own_identity` on it begins; empty if unknown."""
    return own_identity().partition("/")[0]


def is_surely_dead(identity: str) -> bool:
    """Whether this process has certainly ended; False if that cannot be known from here."""
    boot_and_namespace, _, rest = identity.partition(" ")
    pid, _, started = rest.partition(" ")
    try:
        if not pid.isdigit() or boot_and_namespace != _boot_and_namespace():
            return False
        found = _stat(int(pid))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, IndexError):
        return False
    return found[_STARTED] != started or found[_STATE] in _ENDED


def _boot_and_namespace() -> str:
    """The boot id of the machine, and the namespace of our process ids."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"


def _stat(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
