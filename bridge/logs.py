"""Structured logs: to a person on a terminal, as JSON lines elsewhere; one writer, no standard logging on the hot path."""

from __future__ import annotations

import json
import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def set_up(level: str, output_format: str) -> None:
    """Log from `level` up; `output_format` is auto, json or console."""
    is_console = output_format == "console" or (output_format == "auto" and sys.stderr.isatty())
    last: Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if is_console else _json()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_control_characters,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()])
    # That a chore takes longer than the pause between two is told by whatever holds it up.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


class _LibraryHandler(logging.Handler):
    """What libraries say over the standard logging, as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line; a traceback is part of it."""
        said = {"logger": record.name, "said": record.getMessage()}
        structlog.get_logger().log(record.levelno, "library.said", **said, exc_info=record.exc_info)


def _json() -> Processor:
    encode = json.JSONEncoder(ensure_ascii=False, default=str).encode  # `json.dumps` would make one for every line
    return structlog.processors.JSONRenderer(lambda event, **_: encode(event))


def _without_control_characters(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Foreign text cannot forge a line or steer a terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            event[key] = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return event
