"""The log as a program reads it: one JSON object a line, whoever speaks."""

from __future__ import annotations

import json
import subprocess
import sys

LIBRARIES_SPEAK = """
import logging
from bridge import logs
logs.set_up("info", "json")
logging.getLogger("asyncio").warning("took %s", "long\\nvery")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("it broke")
logging.getLogger("apscheduler.scheduler").warning("skipped: maximum number of running instances reached")
"""


def test_what_libraries_say_is_json_like_every_other_line() -> None:
    """Else a traceback of theirs is many lines that no collector can read."""
    done = subprocess.run([sys.executable, "-c", LIBRARIES_SPEAK], check=True, capture_output=True, text=True)
    slow, broke = map(json.loads, done.stderr.splitlines())
    assert (slow["event"], slow["level"], slow["logger"]) == ("library.said", "warning", "asyncio")
    assert (broke["said"], broke["level"]) == ("it broke", "error")
    assert "ZeroDivisionError" in broke["exception"]
