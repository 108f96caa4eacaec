"""`runbridge events …`: list, show, follow and replay recorded events."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import click

from bridge.cli.client import Object
from bridge.cli.options import ENDPOINT, EVENT_TYPES, RUN, Settings, common_options, paging_options
from bridge.cli.output import (
    Cell,
    ago,
    count,
    note,
    print_json,
    print_page,
    print_result,
    print_table,
    say,
    status_text,
)

COLUMNS: Final = ("EVENT", "AT", "TYPE", "ABOUT", "STATUS", "#")
COLUMNS_KEPT: Final = ("EVENT", "TYPE", "STATUS", "AT", "ABOUT", "#")


@click.group
def events() -> None:
    """List, show, follow and replay events."""


@events.command("list")
@click.option("--after", metavar="EVENT", help="Events recorded after this one, oldest first.")
@click.option("--events", "types", metavar="A,B", type=EVENT_TYPES, help="Only these types.")
@click.option("--run", "run_id", metavar="RUN", type=RUN, help="Only events of this run.")
@paging_options("Events")
@common_options
def list_events(
    settings: Settings,
    after: str | None,
    types: list[str] | None,
    run_id: str | None,
    limit: int,
    cursor: str | None,
) -> None:
    """List events, newest first; with --after, those recorded since then, oldest first."""
    if after and cursor:
        raise click.UsageError("give either --after or --cursor")
    query: dict[str, Any] = {"type": types, "run_id": run_id, "limit": limit, "after": after or cursor}
    if after is None:
        query["order"] = "newest"
    response = settings.client().get("v1", "events", **query)
    if after is None or settings.as_json:
        print_page(response, COLUMNS, _row, as_json=settings.as_json, keep=COLUMNS_KEPT)
        return
    rows = response.rows()
    print_table(COLUMNS, map(_row, rows), keep=COLUMNS_KEPT)
    if len(rows) == limit:
        note(f"there is more: --after {rows[-1]['id']}")


def _row(event: Object) -> tuple[Cell, ...]:
    sequence = event["data"].get("sequence")
    return event["id"], ago(event["timestamp"]), event["type"], about(event), status_of(event), sequence


@events.command
@click.argument("event_id")
@common_options
def show(settings: Settings, event_id: str) -> None:
    """Show EVENT_ID; with --json into a pipe, exactly the bytes that are signed and sent."""
    print_result(settings.client().get("v1", "events", event_id), _print_event, as_json=settings.as_json)


def _print_event(event: Object) -> None:
    for line in json.dumps(event, indent=2, ensure_ascii=False).splitlines():
        sys.stdout.flush()
        say(line)


@events.command
@click.argument("event_id", nargs=-1, required=True)
@click.option(
    "--endpoint", metavar="ID", type=ENDPOINT, help="Only to this endpoint; default: all that received or match it."
)
@common_options
def replay(settings: Settings, event_id: tuple[str, ...], endpoint: str | None) -> None:
    """Send EVENT_ID again, with the same id and bytes."""
    client = settings.client()
    for each in event_id:
        response = client.post("v1", "events", each, "replay", body={"endpoint": endpoint} if endpoint else {})
        if settings.as_json:
            print_json(response.body)
        else:
            deliveries = response.object().get("deliveries", [])
            say(each, f"is sent again {count(len(deliveries), 'time')}:", " ".join(deliveries))


@events.command
@click.option("--after", metavar="EVENT", help="Start after this event; default: with the next one recorded.")
@click.option("--events", "types", metavar="A,B", type=EVENT_TYPES, help="Only these types.")
@common_options
def tail(settings: Settings, after: str | None, types: list[str] | None) -> None:
    """Print events as they are recorded, until interrupted; with --json one body per line."""
    for event in settings.client().stream_events(after=after, types=types):
        if settings.as_json:
            sys.stdout.write(json.dumps(json.loads(event.body)) + "\n")  # ASCII: safe on a terminal, one line each
        else:
            body: Object = json.loads(event.body)
            say(body["timestamp"], body["id"], body["type"], about(body), status_of(body))
        sys.stdout.flush()


def about(event: Object) -> str:
    """The run, connection or endpoint that the event is about."""
    data = event["data"]
    if data.get("run"):
        return f"{data['run']['id']} ({data['run']['connection']})"
    for noun in ("connection", "endpoint"):
        thing = data.get(noun)
        if thing:
            return f"{noun} {thing.get('name') or thing.get('id') if isinstance(thing, dict) else thing}"
    return ""


def status_of(event: Object) -> Cell:
    """The status of the run in its colour; None for an event without a run."""
    run = event["data"].get("run")
    return status_text(run["status"]) if run else None
