"""Output of the commands: tables for people, JSON for programs, and no control character from outside."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.domain.timestamps import parse_instant

if TYPE_CHECKING:  # a command that asks no daemon loads no HTTP client
    from bridge.cli.client import ClientResponse, Object

WIDE: Final = 10_000  # columns: output into a pipe is not cut to the width of a terminal
_NARROW: Final = 60  # columns: where one blank between two cells has to do
# DEL, C1, line and paragraph separators, bidirectional controls, and halves of surrogate pairs.
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
        """Leave the exit code to `main`; rich would exit here."""
        raise  # noqa: PLE0704 - called while the BrokenPipeError is being handled


def console(*, is_error: bool = False) -> Console:
    """Standard output or error; colours only on a terminal and without NO_COLOR."""
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else WIDE
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def clean(text: object) -> str:
    """`text` on one line, without characters that move the cursor or reorder the text."""
    return _UNSAFE.sub(lambda found: " " if found[0] in "\n\t\r" else "", str(text))


def say(*parts: Cell) -> None:
    """Print one line on standard output; None is left out."""
    console().print(Text(" ").join(_cell(part) for part in parts if part is not None), soft_wrap=True)


def say_heading(title: str) -> None:
    """Print an empty line and `title`."""
    console().print(Text(f"\n{clean(title)}", style="bold"), soft_wrap=True)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def note(text: str) -> None:
    """Print a remark on standard error, apart from what a program reads."""
    console(is_error=True).print(Text(clean(text)), soft_wrap=True)


def print_json(body: bytes) -> None:
    """Print the daemon's bytes unchanged; on a terminal indented and with control characters escaped."""
    if not body:
        return
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(body.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()
        return
    text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    sys.stdout.write(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_result(response: ClientResponse, report: Callable[[Object], None], *, as_json: bool) -> None:
    """Print the daemon's bytes, or what `report` prints about them."""
    if as_json:
        print_json(response.body)
    else:
        report(response.object())


def print_value(value: Any) -> None:
    """Print `value` as JSON, on one line unless standard output is a terminal."""
    print_json(json.dumps(value, ensure_ascii=False).encode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, keep: Sequence[str] = ()) -> None:
    """Print a table; a terminal folds long cells or leaves columns out (see `build_table`), elsewhere nothing is cut."""
    _print(build_table(columns, rows, keep=keep))


def print_page(
    response: ClientResponse,
    columns: Sequence[str],
    row: Callable[[Object], Sequence[Cell]],
    *,
    as_json: bool,
    keep: Sequence[str] = (),
) -> None:
    """Print a list of the API as a table, and how to get its next page; as JSON, the daemon's bytes."""
    if as_json:
        print_json(response.body)
        return
    print_table(columns, (row(each) for each in response.rows()), keep=keep)
    if cursor := response.object().get("next_cursor"):
        note(f"there is more: --cursor {cursor}")


def build_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, keep: Sequence[str] = ()) -> Table:
    """Return a table for the console.

    `keep` names columns, the most important first: of these, a narrow terminal shows those that fit on one line per
    row, and none that is empty. Without `keep`, all columns are shown and long cells are folded, except an id in the first column.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max([len(column), *(row[n].cell_len for row in cells)]) for n, column in enumerate(columns)]
    gap = 1 if console().width < _NARROW else 2
    empty = {n for n in range(len(columns)) if not any(row[n].cell_len for row in cells)}
    shown = _fitting(columns, widths, keep, gap, empty) if keep else range(len(columns))
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for number in shown:
        is_id = number == 0 and widths[0] <= console().width / 2
        table.add_column(columns[number], overflow="fold", no_wrap=is_id)
    for row in cells:
        table.add_row(*(row[number] for number in shown))
    return table


def _fitting(
    columns: Sequence[str], widths: Sequence[int], keep: Sequence[str], gap: int, empty: Container[int]
) -> list[int]:
    """The numbers of the columns that fit on the console, and always that of the first in `keep`."""
    left = console().width + gap
    is_short = sum(widths[columns.index(name)] + gap for name in keep) > left
    shown: list[int] = []
    for number in map(columns.index, keep):
        if shown and is_short and number in empty:
            continue
        if not shown or widths[number] + gap <= left:
            shown.append(number)
            left -= widths[number] + gap
    return sorted(shown)


def print_facts(facts: Iterable[tuple[str, Cell]]) -> None:
    """Print one name and value per line; None and empty texts are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, ""):
            grid.add_row(name, _cell(value))
    _print(grid)


def status_text(status: object) -> Text:
    """A status in its colour."""
    return Text(clean(status), style=_STYLES.get(str(status), ""))


def mark(is_good: bool | None) -> Text:
    """✓ for True, ✗ for False, ! for None (a remark)."""
    return Text(
        {True: "✓", False: "✗", None: "!"}[is_good], style={True: "green", False: "red", None: "yellow"}[is_good]
    )


def last_error_text(thing: Object) -> str | None:
    """The failed polls of a run or a connection since the last readable one; None without any."""
    error = thing.get("last_error")
    if not error:
        return None
    times = f", {error['count']} times in a row" if error["count"] > 1 else ""
    return f"{error['message']}  ({error['kind']}, {ago(error['at'])}{times})"


def ago(instant: object, *, now: datetime | None = None) -> str:
    """`12s ago` or `in 5m`; empty for anything but an RFC 3339 instant."""
    at = instant_of(instant)
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    return f"{rough(seconds)} ago" if seconds >= 0 else f"in {rough(-seconds)}"


def due(instant: object, *, now: datetime | None = None) -> str:
    """`in 5m`, or `now` for what is due or under way; empty for anything but an RFC 3339 instant."""
    text = ago(instant, now=now)
    return "now" if text.endswith(" ago") else text


def rough(seconds: float) -> str:
    """A duration in one unit with two significant digits."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"


def instant_of(value: object) -> datetime | None:
    """Parse an RFC 3339 text; None for anything else."""
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
