"""The live view of `runbridge runs watch`: a table that refreshes, or a line per change where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.live import Live

from bridge.cli.client import Client, Object, Patience
from bridge.cli.output import build_table, console, print_value, say, status_text
from bridge.cli.runs import FAILURES, RUN_COLUMNS, progress_of, run_row

REFRESH_S = 1.0
NEWEST = 30


def watch_runs(client: Client, run_ids: list[str], *, as_json: bool) -> int:
    """Show the runs until all of `run_ids` have settled (without any: until interrupted); 1 if one ended badly."""
    look = _look_at(client, run_ids)
    if sys.stdout.isatty() and not as_json:
        runs = _watch_live(look, is_named=bool(run_ids))
    else:
        runs = _watch_plainly(look, is_named=bool(run_ids), as_json=as_json)
    return 1 if any(run["status"] in FAILURES for run in runs) else 0


def _look_at(client: Client, run_ids: list[str]) -> Callable[[], list[Object]]:
    """What to ask once a second; a run that has settled is not asked for again."""
    settled: dict[str, Object] = {}
    patience = Patience()

    def look() -> list[Object]:
        if not run_ids:
            return patience.keep_trying(lambda: client.get("v1", "runs", limit=NEWEST)).rows()
        return [settled.get(run_id) or _one(run_id) for run_id in run_ids]

    def _one(run_id: str) -> Object:
        run = patience.keep_trying(lambda: client.get("v1", "runs", run_id)).object()
        if run["settled"]:
            settled[run_id] = run
        return run

    return look


def _watch_live(look: Callable[[], list[Object]], *, is_named: bool) -> list[Object]:
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            runs = look()
            live.update(build_table(RUN_COLUMNS, (run_row(run) for run in runs)), refresh=True)
            if is_named and all(run["settled"] for run in runs):
                return runs
            time.sleep(REFRESH_S)


def _watch_plainly(look: Callable[[], list[Object]], *, is_named: bool, as_json: bool) -> list[Object]:
    shown: dict[str, tuple[object, ...]] = {}
    while True:
        runs = look()
        for run in runs:
            state = (run["status"], progress_of(run))
            if shown.get(run["id"]) != state:
                shown[run["id"]] = state
                if as_json:
                    print_value(run)
                else:
                    say(run["id"], run["connection"], status_text(run["status"]), progress_of(run) or None)
        sys.stdout.flush()
        if is_named and all(run["settled"] for run in runs):
            return runs
        time.sleep(REFRESH_S)
