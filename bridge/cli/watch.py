"""The live view of `runbridge runs watch`: on a terminal a table that refreshes, elsewhere a line per change."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from bridge.cli.client import Client, Object, Patience
from bridge.cli.daemon_address import DaemonUnreachable
from bridge.cli.output import build_table, console, count, print_value, say, status_text
from bridge.cli.run_report import FAILURES, RUN_COLUMNS, RUN_COLUMNS_KEPT, progress_text, run_row

REFRESH_S: Final = 1.0
NEWEST: Final = 100
HELP: Final = "↑ ↓ PgUp PgDn Home End scroll, q quits"
LOST: Final = "no answer, trying again; q quits"
AROUND_ROWS: Final = 3  # lines for heading, help and the cursor
_LINE, _PAGE, _ALL = 1, 0, NEWEST
_KEY = re.compile(r"\x1b\[\d*[A-Z~]|.", re.DOTALL)  # several keys may come at once
_MOVES: Final = {
    **dict.fromkeys(("\x1b[A", "k"), (-1, _LINE)),
    **dict.fromkeys(("\x1b[B", "j"), (1, _LINE)),
    **dict.fromkeys(("\x1b[5~", "b"), (-1, _PAGE)),
    **dict.fromkeys(("\x1b[6~", " "), (1, _PAGE)),
    **dict.fromkeys(("\x1b[H", "\x1b[1~", "g"), (-1, _ALL)),
    **dict.fromkeys(("\x1b[F", "\x1b[4~", "G"), (1, _ALL)),
}


def watch_runs(client: Client, run_ids: list[str], *, as_json: bool, **query: Any) -> int:
    """Show `run_ids` until all have settled, or the newest runs under `query` until interrupted.

    Return 1 if one of `run_ids` ended badly, else 0.
    """
    fetch = _fetcher(client, run_ids, query)

    def is_done(runs: list[Object]) -> bool:
        return bool(run_ids) and all(run["settled"] for run in runs)

    if sys.stdout.isatty() and not as_json:
        runs = _show_live(fetch, is_done)
    else:
        runs = _print_changes(fetch, is_done, as_json=as_json)
    return 1 if run_ids and any(run["status"] in FAILURES for run in runs) else 0


def _fetcher(client: Client, run_ids: list[str], query: dict[str, Any]) -> Callable[[], list[Object]]:
    """Return a function that requests the runs; a named run that has settled is not requested again."""
    settled: dict[str, Object] = {}

    def fetch_one(run_id: str) -> Object:
        run = client.get("v1", "runs", run_id).object()
        if run["settled"]:
            settled[run_id] = run
        return run

    def fetch() -> list[Object]:
        if run_ids:
            return [settled.get(run_id) or fetch_one(run_id) for run_id in run_ids]
        return client.get("v1", "runs", limit=NEWEST, **query).rows()

    return fetch


def _show_live(fetch: Callable[[], list[Object]], is_done: Callable[[list[Object]], bool]) -> list[Object]:
    first, runs = 0, list[Object]()
    patience = Patience(sleep=lambda _: None)  # `next_key` waits
    with Live(console=console(), auto_refresh=False) as live, _keyboard() as next_key:
        while True:
            try:
                runs, footer = fetch(), HELP
                patience.reset()
            except DaemonUnreachable as error:
                patience.wait_or_raise(error)
                footer = LOST
            refresh_at = time.monotonic() + REFRESH_S
            while True:
                title_rows = len(_title(runs, NEWEST, 0).wrap(live.console, live.console.width))
                height = max(live.console.height - AROUND_ROWS - title_rows, 1)
                first = max(min(first, len(runs) - height), 0)
                live.update(_view(runs, first, height, footer), refresh=True)
                if is_done(runs):
                    return runs
                key = next_key(max(refresh_at - time.monotonic(), 0.0))
                if key == "q":
                    return runs
                if not key:
                    break
                direction, step = _MOVES.get(key, (0, _LINE))
                first += direction * (step or height)


def _title(runs: list[Object], first: int, shown: int) -> Text:
    """The number of runs in each status."""
    statuses = Counter(run["status"] for run in runs)
    part = f" (rows {first + 1} to {first + shown})" if shown < len(runs) else ""
    counts = Text(", ").join(Text(f"{number} ") + status_text(status) for status, number in statuses.most_common())
    return Text(f"{count(len(runs), 'run')}{part}: ", style="bold") + counts if runs else Text("no runs", style="bold")


def _view(runs: list[Object], first: int, height: int, footer: str) -> Group:
    """The rows that fit, between a title and the keys."""
    shown = runs[first : first + height]
    table = build_table(RUN_COLUMNS, map(run_row, shown), keep=RUN_COLUMNS_KEPT)
    return Group(_title(runs, first, len(shown)), table, Text(footer, style="dim" if footer == HELP else "red"))


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits so many seconds for a key and returns it; "" without one, "q" at the end of input."""
    terminal = sys.stdin.fileno()
    is_keyboard = os.isatty(terminal)
    typed: list[str] = []

    def next_key(seconds: float) -> str:
        if not typed and select.select([terminal] if is_keyboard else [], [], [], seconds)[0]:
            typed.extend(_KEY.findall(os.read(terminal, 256).decode(errors="replace")) or "q")
        return typed.pop(0) if typed else ""

    if not is_keyboard:
        yield next_key
        return
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield next_key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _print_changes(
    fetch: Callable[[], list[Object]], is_done: Callable[[list[Object]], bool], *, as_json: bool
) -> list[Object]:
    printed: dict[str, tuple[object, ...]] = {}
    patience = Patience()
    while True:
        runs = patience.keep_trying(fetch)
        for run in runs:
            state = (run["status"], progress_text(run))
            if printed.get(run["id"]) != state:
                printed[run["id"]] = state
                if as_json:
                    print_value(run)
                else:
                    say(run["id"], run["connection"], status_text(run["status"]), progress_text(run) or None)
        sys.stdout.flush()
        if is_done(runs):
            return runs
        time.sleep(REFRESH_S)
