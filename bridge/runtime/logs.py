"""Structured logs: for people on a terminal, JSON lines elsewhere. Standard logging is not on the hot path."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic_core import to_json
from structlog.typing import EventDict, Processor

REPEATED_WITHIN_S = 60.0
_REPEATED_MAX = 1000  # different lines that are remembered
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = frozenset({str, int, float, bool, type(None)})
_format_traceback = structlog.processors.format_exc_info
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def set_up(level: str, output_format: str) -> None:
    """Log from `level` up; `output_format` is auto, json or console."""
    is_console = output_format == "console" or (output_format == "auto" and sys.stderr.isatty())
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    as_json = _for_journal if is_journal(sys.stderr.fileno(), os.environ.get("JOURNAL_STREAM", "")) else _as_json
    last: list[Processor] = [_without_control_characters, console] if is_console else [as_json]
    stream = _LossyFile(sys.stderr.fileno(), "wb", closefd=False)
    structlog.configure(
        processors=[
            _complete,
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=_text_to(stream) if is_console else structlog.BytesLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()])
    # It warns of every chore that takes longer than its interval; what delays the chore logs that itself.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _text_to(stream: io.FileIO) -> structlog.WriteLoggerFactory:
    text = io.TextIOWrapper(stream, sys.stderr.encoding, "backslashreplace", write_through=True)
    return structlog.WriteLoggerFactory(text)


class _LossyFile(io.FileIO):
    """A file whose faults cost lines of the log and stop no worker: its disk is full, or its reader is gone.

    It has no buffer: what a full disk refused must not fail the end of the process.
    """

    def write(self, line: Any, /) -> int:
        """Write as much of it as the file takes."""
        rest = memoryview(line)
        size = len(rest)
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[super().write(rest) or len(rest) :]
        return size


def is_journal(descriptor: int, journal_stream: str) -> bool:
    """Whether systemd connected this descriptor to its journal; it says so in $JOURNAL_STREAM (device:inode)."""
    seen = os.fstat(descriptor)
    return journal_stream == f"{seen.st_dev}:{seen.st_ino}"


class _LibraryHandler(logging.Handler):
    """Writes what libraries log through standard logging as lines like all others.

    A line that is repeated is written once, and again with its `count` at 10, 100, 1,000 … repetitions. After
    REPEATED_WITHIN_S without it, it is new.
    """

    def __init__(self) -> None:
        super().__init__()
        self._repeated: dict[tuple[str, str, object], _Repeated] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, which holds the traceback, if any."""
        key = (record.name, str(record.msg), record.exc_info and record.exc_info[0])
        now, seen = time.monotonic(), self._repeated.get(key)
        if seen is None or now - seen.at > REPEATED_WITHIN_S:
            if len(self._repeated) >= _REPEATED_MAX:
                self._repeated.clear()
            seen = self._repeated[key] = _Repeated()
        seen.at, seen.count = now, seen.count + 1
        if seen.count == seen.shown_at:
            seen.shown_at *= 10
            more = {} if seen.count == 1 else {"count": seen.count}
            said = {"logger": record.name, "said": record.getMessage(), **more}
            structlog.get_logger().log(record.levelno, "library.said", **said, exc_info=record.exc_info)


@dataclass(slots=True)
class _Repeated:
    """A line of a library: when it was last logged, how often, and at how many it is written next."""

    at: float = 0.0
    count: int = 0
    shown_at: int = 1


_LEVELS = {"warn": "warning", "exception": "error"}  # what some methods are named beside their level


def _complete(logger: object, name: str, event: EventDict) -> EventDict:
    """Add level, time and traceback in one step: three of structlog's own take three times as long."""
    event["level"] = _LEVELS.get(name, name)
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    event["timestamp"] = f"{_second(seconds)}.{micros:06d}Z"
    return _format_traceback(logger, name, event) if "exc_info" in event else event


@functools.lru_cache(maxsize=2)
def _second(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))


def _as_json(logger: object, name: str, event: EventDict) -> bytes:
    """Encode one line with pydantic, in a quarter of the time of `json` (which was 5 % of the cost of an event).

    Only plain values: pydantic would take objects apart, including those whose repr hides their secrets.
    """
    try:
        line = to_json(event) if _PLAIN.issuperset(map(type, event.values())) else b""
    except ValueError:  # half a surrogate pair
        line = b""
    if line and line.isascii() and b"\\" not in line and b"\x7f" not in line:
        return line  # nearly all of them: no character that could do harm
    return _encode(_without_control_characters(logger, name, event)).encode(errors="replace")


# The journal's names of the levels (sd-daemon(3)), so that `journalctl -p warning` finds the line.
_PRIORITY = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>", "critical": b"<2>"}


def _for_journal(logger: object, name: str, event: EventDict) -> bytes:
    """One line of JSON behind its priority, which the journal takes off again."""
    return _PRIORITY[event["level"]] + _as_json(logger, name, event)


def _without_control_characters(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Replace control characters, so that foreign text cannot forge a line or steer a terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return event
