"""`runbridge events …`: what happened, in order of recording; tail it, send it again."""

from __future__ import annotations

import json
import sys

import click

from bridge.cli.client import Object
from bridge.cli.options import EventTypes, Settings, common_options, pass_settings
from bridge.cli.output import Cell, count, print_json, print_table, say, status_text


@click.group
def command() -> None:
    """What happened, in order; tail it, replay it."""


@command.command("list")
@click.option("--after", metavar="EVENT", help="Only what was recorded after this event.")
@click.option("--events", "types", metavar="A,B", type=EventTypes(), help="Only these types.")
@click.option("--run", "run_id", metavar="RUN", help="Only events of this run.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@common_options
@pass_settings
def list_events(settings: Settings, after: str | None, types: list[str] | None, run_id: str | None, limit: int) -> None:
    """Recorded events, oldest first; go on with --after and the last id."""
    answer = settings.client().get("v1", "events", after=after, type=types, run_id=run_id, limit=limit)
    if settings.as_json:
        print_json(answer.body)
        return
    print_table(
        ("EVENT", "AT", "TYPE", "ABOUT", "STATUS", "#"),
        (
            (e["id"], e["timestamp"], e["type"], about(e), status_of(e), e["data"].get("sequence"))
            for e in answer.rows()
        ),
    )


@command.command
@click.argument("event_id")
@common_options
@pass_settings
def show(settings: Settings, event_id: str) -> None:
    """One event; with --json, when piped, exactly the bytes that are signed and sent."""
    answer = settings.client().get("v1", "events", event_id)
    if settings.as_json:
        print_json(answer.body)
        return
    for line in json.dumps(answer.object(), indent=2, ensure_ascii=False).splitlines():
        sys.stdout.flush()
        say(line)


@command.command
@click.argument("event_id", nargs=-1, required=True)
@click.option("--endpoint", metavar="ID", help="Only to this endpoint; else to all that got or wanted it.")
@common_options
@pass_settings
def replay(settings: Settings, event_id: tuple[str, ...], endpoint: str | None) -> None:
    """Send EVENT_ID again: same id, same bytes."""
    client = settings.client()
    for each in event_id:
        answer = client.post("v1", "events", each, "replay", body={"endpoint": endpoint} if endpoint else {})
        if settings.as_json:
            print_json(answer.body)
        else:
            deliveries = answer.object().get("deliveries", [])
            say(each, f"goes out again {count(len(deliveries), 'time')}:", " ".join(deliveries))


@command.command
@click.option("--after", metavar="EVENT", help="Begin after this event; else with what happens from now on.")
@click.option("--events", "types", metavar="A,B", type=EventTypes(), help="Only these types.")
@common_options
@pass_settings
def tail(settings: Settings, after: str | None, types: list[str] | None) -> None:
    """Print events as they happen, until interrupted; with --json one body per line."""
    for event in settings.client().stream_events(after=after, types=types):
        if settings.as_json:
            sys.stdout.write(json.dumps(json.loads(event.body)) + "\n")  # ASCII: safe on a terminal, one line each
        else:
            body: Object = json.loads(event.body)
            say(body["timestamp"], body["id"], body["type"], about(body), status_of(body))
        sys.stdout.flush()


def about(event: Object) -> str:
    """What the event concerns: a run, a connection, an endpoint."""
    data = event["data"]
    if data.get("run"):
        return f"{data['run']['id']} ({data['run']['connection']})"
    for noun in ("connection", "endpoint"):
        thing = data.get(noun)
        if thing:
            return f"{noun} {thing.get('name') or thing.get('id') if isinstance(thing, dict) else thing}"
    return ""


def status_of(event: Object) -> Cell:
    """The run's status in its colour, if it is about a run."""
    run = event["data"].get("run")
    return status_text(run["status"]) if run else None
