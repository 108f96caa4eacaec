"""The command line `runbridge`: one command table, a file per noun, and one place for exit codes.

Exit codes: 0 done, 1 the thing asked about failed, 2 wrong use, 3 daemon not reachable, 130 interrupted,
141 the reader of our output closed it. No command shows a traceback.
"""

from __future__ import annotations

from bridge.cli.commands import main

__all__ = ["main"]
