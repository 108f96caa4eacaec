"""The process's limit of open files: every connection, in and out, is one."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

WANTED: Final = 65_536  # as in the systemd unit


def descriptor_limit() -> int:
    """The soft limit; WANTED where there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Raise the soft limit to WANTED, or as far as the hard one allows; shells and containers often start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; then the lower limit holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
