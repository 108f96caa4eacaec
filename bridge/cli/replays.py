"""`runbridge replays …`: how far replays are; starting one is `endpoints replay` and `endpoints enable --replay-missed`."""

from __future__ import annotations

import os
import time
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bridge.cli.client import Client, Object, Patience
from bridge.cli.options import Settings, common_options, pass_settings
from bridge.cli.output import console, count, mark, print_facts, print_json, print_table, print_value, say, status_text

LOOK_S = 0.3


@click.group
def command() -> None:
    """How far replays are; stop one."""


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", help="Where the list before this one ended.")
@common_options
@pass_settings
def list_replays(settings: Settings, /, **query: Any) -> None:
    """Replays, newest first."""
    from bridge.cli.runs import tell_more

    answer = settings.client().get("v1", "replays", **query)
    if settings.as_json:
        print_json(answer.body)
        return
    print_table(
        ("REPLAY", "ENDPOINT", "STATE", "SENT AGAIN", "OF", "STARTED"),
        (
            (r["id"], r["endpoint_id"], status_text(r["state"]), r["replayed"], r["count"], r["created_at"])
            for r in answer.rows()
        ),
    )
    tell_more(answer.object())


@command.command
@click.argument("replay_id")
@common_options
@pass_settings
def show(settings: Settings, replay_id: str) -> None:
    """One replay."""
    answer = settings.client().get("v1", "replays", replay_id)
    if settings.as_json:
        print_json(answer.body)
        return
    replay = answer.object()
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


@command.command
@click.argument("replay_id")
@common_options
@pass_settings
def wait(settings: Settings, replay_id: str) -> int:
    """Stay until everything is on its way, with a progress bar; exit 1 if it was cancelled."""
    client = settings.client()
    return follow_replay(client, client.get("v1", "replays", replay_id).object(), settings)


@command.command
@click.argument("replay_id", nargs=-1, required=True)
@common_options
@pass_settings
def cancel(settings: Settings, replay_id: tuple[str, ...]) -> None:
    """Send nothing more of it; what is on its way already arrives."""
    client = settings.client()
    for each in replay_id:
        answer = client.post("v1", "replays", each, "cancel")
        if settings.as_json:
            print_json(answer.body)
        else:
            replay = answer.object()
            say(each, "is cancelled after", f"{replay['replayed']} of {count(replay['count'], 'event')}")


def start_replay(settings: Settings, endpoint_id: str, selection: Object, *, is_waiting: bool) -> int:
    """Ask for a replay and say what becomes of it; 1 if it was waited for and cancelled."""
    client = settings.client()
    if "since" not in selection:
        selection = {**selection, "since": client.get("v1", "endpoints", endpoint_id).object()["created_at"]}
    answer = client.post("v1", "endpoints", endpoint_id, "replay", body=selection, timeout_s=300.0)
    if is_waiting and not selection.get("dry_run"):
        return follow_replay(client, answer.object(), settings)
    if settings.as_json:
        print_json(answer.body)
    elif selection.get("dry_run"):
        say(count(answer.object()["count"], "event"), "to be sent again")
    else:
        replay = answer.object()
        say(replay["id"], "sends", count(replay["count"], "event"), f"again to {endpoint_id}")
    return 0


def follow_replay(client: Client, replay: Object, settings: Settings) -> int:
    """A progress bar until the replay has ended, across restarts of the daemon; 1 if it was cancelled."""
    patience, replay_id = Patience(), replay["id"]
    columns = (TextColumn("sending again"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(is_error=True), transient=True, disable=not os.isatty(2)) as bar:
        task = bar.add_task("", total=replay["count"])
        while replay["state"] == "running":
            bar.update(task, completed=replay["replayed"])
            time.sleep(LOOK_S)
            replay = patience.keep_trying(lambda: client.get("v1", "replays", replay_id)).object()
    if settings.as_json:
        print_value(replay)
    else:
        is_done = replay["state"] == "done"
        say(mark(is_done), replay["id"], status_text(replay["state"]), count(replay["replayed"], "event"), "sent again")
    return 0 if replay["state"] == "done" else 1
