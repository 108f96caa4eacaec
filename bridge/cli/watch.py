"""The live view of `runbridge runs watch`: on a terminal a table that refreshes, elsewhere a line per change."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from rich.live import Live

from bridge.cli.client import Client, Object, Patience
from bridge.cli.output import build_table, console, print_value, say, status_text
from bridge.cli.run_report import FAILURES, RUN_COLUMNS, RUN_COLUMNS_KEPT, progress_text, run_row

REFRESH_S = 1.0
NEWEST = 30


def watch_runs(client: Client, run_ids: list[str], *, as_json: bool) -> int:
    """Show `run_ids` until all have settled, or the newest runs until interrupted; 1 if one ended badly, else 0."""
    views = _views(client, run_ids)
    runs = _print_changes(views, as_json=as_json) if as_json or not sys.stdout.isatty() else _show_live(views)
    return 1 if any(run["status"] in FAILURES for run in runs) else 0


def _views(client: Client, run_ids: list[str]) -> Iterator[list[Object]]:
    """Yield the runs every REFRESH_S until all of `run_ids` have settled; a settled run is not requested again."""
    settled: dict[str, Object] = {}
    patience = Patience()

    def fetch(run_id: str) -> Object:
        run = patience.keep_trying(lambda: client.get("v1", "runs", run_id)).object()
        if run["settled"]:
            settled[run_id] = run
        return run

    while True:
        if run_ids:
            yield [settled.get(run_id) or fetch(run_id) for run_id in run_ids]
        else:
            yield patience.keep_trying(lambda: client.get("v1", "runs", limit=NEWEST)).rows()
        if run_ids and len(settled) == len(set(run_ids)):
            return
        time.sleep(REFRESH_S)


def _show_live(views: Iterator[list[Object]]) -> list[Object]:
    runs: list[Object] = []
    with Live(console=console(), auto_refresh=False) as live:
        for runs in views:
            live.update(build_table(RUN_COLUMNS, map(run_row, runs), keep=RUN_COLUMNS_KEPT), refresh=True)
    return runs


def _print_changes(views: Iterator[list[Object]], *, as_json: bool) -> list[Object]:
    runs: list[Object] = []
    printed: dict[str, tuple[object, ...]] = {}
    for runs in views:
        for run in runs:
            state = (run["status"], progress_text(run))
            if printed.get(run["id"]) != state:
                printed[run["id"]] = state
                if as_json:
                    print_value(run)
                else:
                    say(run["id"], run["connection"], status_text(run["status"]), progress_text(run) or None)
        sys.stdout.flush()
    return runs
