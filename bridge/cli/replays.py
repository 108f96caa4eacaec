"""`runbridge replays …`: progress of replays, which `endpoints replay` and `endpoints enable --replay-missed` start."""

from __future__ import annotations

import os
import time
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bridge.cli.client import Client, Object, Patience
from bridge.cli.options import Settings, common_options, paging_options
from bridge.cli.output import (
    console,
    count,
    mark,
    print_facts,
    print_json,
    print_page,
    print_result,
    print_value,
    say,
    status_text,
)

PROGRESS_EVERY_S = 0.3


@click.group
def replays() -> None:
    """Progress of replays; cancel one."""


@replays.command("list")
@paging_options("Replays")
@common_options
def list_replays(settings: Settings, /, **query: Any) -> None:
    """List replays, newest first."""
    print_page(
        settings.client().get("v1", "replays", **query),
        ("REPLAY", "ENDPOINT", "STATE", "SENT AGAIN", "OF", "STARTED"),
        lambda replay: (
            replay["id"],
            replay["endpoint_id"],
            status_text(replay["state"]),
            replay["replayed"],
            replay["count"],
            replay["created_at"],
        ),
        as_json=settings.as_json,
        keep=("REPLAY", "STATE", "ENDPOINT", "SENT AGAIN", "OF", "STARTED"),
    )


@replays.command
@click.argument("replay_id")
@common_options
def show(settings: Settings, replay_id: str) -> None:
    """Show REPLAY_ID."""
    print_result(settings.client().get("v1", "replays", replay_id), _print_replay, as_json=settings.as_json)


def _print_replay(replay: Object) -> None:
    say(replay["id"], status_text(replay["state"]), f"{replay['replayed']} of {count(replay['count'], 'event')}")
    print_facts(
        [
            ("endpoint", replay["endpoint_id"]),
            ("status", replay["status"]),
            ("types", ", ".join(replay["types"] or ())),
            ("since", replay["since"]),
            ("until", replay["until"]),
            ("rate", f"{replay['rate']:g} a second"),
            ("started", replay["created_at"]),
            ("ended", replay["finished_at"]),
        ]
    )


@replays.command
@click.argument("replay_id")
@common_options
def wait(settings: Settings, replay_id: str) -> int:
    """Wait until all events of REPLAY_ID are queued, with a progress bar; exit 1 if it was cancelled."""
    client = settings.client()
    return follow_replay(client, client.get("v1", "replays", replay_id).object(), settings)


@replays.command
@click.argument("replay_id", nargs=-1, required=True)
@common_options
def cancel(settings: Settings, replay_id: tuple[str, ...]) -> None:
    """Queue no more events of REPLAY_ID; those queued already are still sent."""
    client = settings.client()
    for each in replay_id:
        response = client.post("v1", "replays", each, "cancel")
        print_result(response, _print_cancelled, as_json=settings.as_json)


def _print_cancelled(replay: Object) -> None:
    say(replay["id"], "is cancelled after", f"{replay['replayed']} of {count(replay['count'], 'event')}")


def start_replay(settings: Settings, endpoint_id: str, selection: Object, *, is_waiting: bool) -> int:
    """Start a replay and print it; 1 if it was waited for and cancelled, else 0."""
    client = settings.client()
    if "since" not in selection:
        selection = {**selection, "since": client.get("v1", "endpoints", endpoint_id).object()["created_at"]}
    response = client.post("v1", "endpoints", endpoint_id, "replay", body=selection, timeout_s=300.0)
    if is_waiting and not selection.get("dry_run"):
        return follow_replay(client, response.object(), settings)
    if settings.as_json:
        print_json(response.body)
    elif selection.get("dry_run"):
        say(count(response.object()["count"], "event"), "to be sent again")
    else:
        replay = response.object()
        say(replay["id"], "sends", count(replay["count"], "event"), f"again to {endpoint_id}")
    return 0


def follow_replay(client: Client, replay: Object, settings: Settings) -> int:
    """Show a progress bar until the replay ends, across restarts of the daemon; 1 if it was cancelled, else 0."""
    patience, replay_id = Patience(), replay["id"]
    columns = (TextColumn("sending again"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(is_error=True), transient=True, disable=not os.isatty(2)) as bar:
        task = bar.add_task("", total=replay["count"])
        while replay["state"] == "running":
            bar.update(task, completed=replay["replayed"])
            time.sleep(PROGRESS_EVERY_S)
            replay = patience.keep_trying(lambda: client.get("v1", "replays", replay_id)).object()
    if settings.as_json:
        print_value(replay)
    else:
        is_done = replay["state"] == "done"
        say(mark(is_done), replay["id"], status_text(replay["state"]), count(replay["replayed"], "event"), "sent again")
    return 0 if replay["state"] == "done" else 1
