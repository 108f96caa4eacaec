"""The log as a program reads it: one JSON object a line, also from libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES_SPEAK = """
import logging
from bridge.runtime import logs
logs.set_up("info", "json")
logging.getLogger("asyncio").warning("took %s", "long\\nvery")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("it broke")
logging.getLogger("apscheduler.scheduler").warning("skipped: maximum number of running instances reached")
"""


@pytest.mark.slow
def test_what_libraries_say_is_json_like_every_other_line() -> None:
    """Otherwise a traceback of theirs is many lines that no collector can read."""
    done = subprocess.run([sys.executable, "-c", LIBRARIES_SPEAK], check=True, capture_output=True, text=True)
    slow, broke = map(json.loads, done.stderr.splitlines())
    assert (slow["event"], slow["level"], slow["logger"]) == ("library.said", "warning", "asyncio")
    assert (broke["said"], broke["level"]) == ("it broke", "error")
    assert "ZeroDivisionError" in broke["exception"]


UNDER_SYSTEMD = """
import os
seen = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{seen.st_dev}:{seen.st_ino}"
from bridge.runtime import logs
import structlog
logs.set_up("debug", "json")
log = structlog.get_logger()
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(log, level)("spoken")
"""


@pytest.mark.slow
def test_the_journal_gets_the_priority_of_each_line() -> None:
    """`journalctl -p warning` finds what went wrong; the journal takes the prefix off."""
    done = subprocess.run([sys.executable, "-c", UNDER_SYSTEMD], check=True, capture_output=True, text=True)
    lines = [line.partition(">") for line in done.stderr.splitlines()]
    assert [priority for priority, _, _ in lines] == ["<7", "<6", "<4", "<3", "<2"]
    assert [json.loads(line)["level"] for _, _, line in lines] == ["debug", "info", "warning", "error", "critical"]


@pytest.mark.slow
def test_elsewhere_a_line_has_no_priority() -> None:
    """A daemon whose standard error was redirected still has the variable, of another stream."""
    elsewhere = UNDER_SYSTEMD.replace("{seen.st_ino}", "1{seen.st_ino}")
    done = subprocess.run([sys.executable, "-c", elsewhere], check=True, capture_output=True, text=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["spoken"] * 5


FOREIGN_TEXT = """
from bridge.runtime import logs
import dataclasses
import structlog
logs.set_up("info", "json")
log = structlog.get_logger()
log.info("plain", run_id="run_1", polls=3, detail=None)
log.info("quoted", reason='it said "no" \\\\')
log.info("steering", reason="a\\x1b[31mred\\x7f\\x9b\\u202e\\ud800b", reads="grün")
@dataclasses.dataclass
class Hidden:
    key: str = dataclasses.field(default="canary", repr=False)

log.info("hidden", of=Hidden())
log.info("odd", raw=b"\\xff", error=ValueError("boo"), ratio=float("inf"))
"""


@pytest.mark.slow
def test_foreign_text_neither_breaks_a_line_nor_steers_a_terminal() -> None:
    """A name or message comes from outside; `jq -r` and `less -R` show it as it is."""
    done = subprocess.run([sys.executable, "-c", FOREIGN_TEXT], check=True, capture_output=True, text=True)
    plain, quoted, steering, hidden, odd = map(json.loads, done.stderr.splitlines())
    assert (plain["run_id"], plain["polls"], plain["detail"]) == ("run_1", 3, None)
    assert quoted["reason"] == 'it said "no" \\'
    assert steering["reason"] == "a\ufffd[31mred\ufffd\ufffd\ufffd\ufffdb"
    assert steering["reads"] == "grün"
    assert hidden["of"] == "Hidden()", "what an object does not show of itself stays hidden"
    assert odd["error"] == "boo"


A_LIBRARY_REPEATS_ITSELF = """
import logging
from bridge.runtime import logs
logs.set_up("info", "json")
for number in range(1234):
    logging.getLogger("asyncio").error("socket.accept() out of system resource")
    logging.getLogger("asyncio").warning("took %s ms", number)
logging.getLogger("asyncio").error("something else")
"""


@pytest.mark.slow
def test_a_line_that_a_library_repeats_is_written_once_and_then_with_its_count() -> None:
    """Without free descriptors asyncio logged 188 MB in a minute."""
    done = subprocess.run([sys.executable, "-c", A_LIBRARY_REPEATS_ITSELF], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    repeated = [line.get("count") for line in lines if line["said"].startswith("socket.accept")]
    assert repeated == [None, 10, 100, 1000]
    assert [line["said"] for line in lines if line["level"] == "warning"] == [f"took {ms} ms" for ms in (0, 9, 99, 999)]
    assert lines[-1]["said"] == "something else"


SPOKEN_TO_THE_END = """
import logging
from bridge.runtime import logs
import structlog
logs.set_up("info", FORMAT)
for number in range(500):
    structlog.get_logger().warning("spoken", number=number)
    logging.getLogger("asyncio").error("said %s", "ü" * 500)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("output_format", ["json", "console"])
def test_a_log_that_cannot_be_written_stops_nothing(output_format: str) -> None:
    """`serve > daemon.log` on the disk of the database: when it was full, the line that said so ended the daemon."""
    program = SPOKEN_TO_THE_END.replace("FORMAT", repr(output_format))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (0, b"done\n")


@pytest.mark.slow
def test_a_log_whose_reader_is_gone_stops_nothing() -> None:
    program = SPOKEN_TO_THE_END.replace("FORMAT", repr("json"))
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, stderr=writes)
    os.close(writes)
    assert (done.returncode, done.stdout) == (0, b"done\n")
