"""What commands print: tables for people, JSON for programs, and never a control character from outside."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.domain.timestamps import parse_instant

WIDE: Final = 10_000  # columns: what is piped into a program is not cut to a terminal's width
# DEL, C1, line and paragraph separators, what turns the reading direction, and halves of surrogate pairs.
_BEYOND_ASCII: Final = "\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE: Final = re.compile(f"[\x00-\x1f{_BEYOND_ASCII}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[{_BEYOND_ASCII}]")  # json escapes the rest
_STYLES: Final = {
    **dict.fromkeys(("succeeded", "delivered", "ok", "enabled", "true"), "green"),
    **dict.fromkeys(("failed", "lost", "expired", "exhausted", "failing", "disabled", "false"), "red"),
    **dict.fromkeys(("partial", "waiting", "unknown"), "yellow"),
    **dict.fromkeys(("running", "pending"), "cyan"),
    **dict.fromkeys(("cancelled", "queued", "discarded"), "dim"),
}

Cell = Text | str | int | float | None


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the exit code be decided at the door; rich would end the process here."""
        raise  # noqa: PLE0704 - called while the BrokenPipeError is being handled


def console(*, is_error: bool = False) -> Console:
    """Where to print: colours only on a terminal and without NO_COLOR."""
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else WIDE
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def clean(text: object) -> str:
    """`text` on one line, without anything that could move the cursor or change what stands before it."""
    return _UNSAFE.sub(lambda found: " " if found[0] in "\n\t\r" else "", str(text))


def say(*parts: Cell) -> None:
    """One line of text on standard output."""
    console().print(Text(" ").join(_cell(part) for part in parts if part is not None), soft_wrap=True)


def say_heading(title: str) -> None:
    """An empty line and the name of what follows."""
    console().print(Text(f"\n{clean(title)}", style="bold"), soft_wrap=True)


def count(number: int, noun: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def note(text: str) -> None:
    """A remark on standard error, out of the way of what a program reads."""
    console(is_error=True).print(Text(clean(text)), soft_wrap=True)


def print_json(body: bytes) -> None:
    """The daemon's own bytes; on a terminal indented and without raw control characters."""
    if not body:
        return
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(body.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()
        return
    text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    sys.stdout.write(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_value(value: Any) -> None:
    """A value of our own as JSON, on one line when it is not for a terminal."""
    print_json(json.dumps(value, ensure_ascii=False).encode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """A table; on a terminal long cells are folded, elsewhere nothing is cut."""
    _print(build_table(columns, rows))


def build_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """The table itself, for a live view as well."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def print_facts(facts: Iterable[tuple[str, Cell]]) -> None:
    """Name and value, one pair a line; what is not known is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, ""):
            grid.add_row(name, _cell(value))
    _print(grid)


def status_text(status: object) -> Text:
    """A status word in its colour."""
    return Text(clean(status), style=_STYLES.get(str(status), ""))


def mark(is_good: bool | None) -> Text:
    """✓, ✗, or ! for what is worth knowing."""
    return Text(
        {True: "✓", False: "✗", None: "!"}[is_good], style={True: "green", False: "red", None: "yellow"}[is_good]
    )


def ago(instant: object, *, now: datetime | None = None) -> str:
    """`12s ago` or `in 5m`; empty where there is no instant."""
    at = instant_of(instant)
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    return f"{rough(seconds)} ago" if seconds >= 0 else f"in {rough(-seconds)}"


def rough(seconds: float) -> str:
    """A duration as people say it: two digits that matter, one unit."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"


def instant_of(value: object) -> datetime | None:
    """The instant in an RFC 3339 text; None for anything else."""
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _print(table: Table) -> None:
    if sys.stdout.isatty():
        console().print(table)
        return
    output = console()
    with output.capture() as captured:
        output.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _cell(value: Cell) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text("" if value is None else clean(value))
