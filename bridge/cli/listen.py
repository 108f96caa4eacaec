"""`runbridge listen`: forward events to a local URL while you develop; needs no endpoint and no tunnel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bridge.cli.client import Object, StreamedEvent
from bridge.cli.events import about, status_of
from bridge.cli.options import EventTypes, Settings, common_options, pass_settings, read_keys, secret_options
from bridge.cli.output import mark, note, say
from bridge.cli.posting import Posted, Receiver


@click.command
@click.option("--forward-to", metavar="URL", required=True, help="Where your application listens.")
@click.option("--events", "types", metavar="A,B", type=EventTypes(), help="Only these types; else all.")
@click.option("--after", metavar="EVENT", help="Begin after this event; else with what happens from now on.")
@secret_options
@common_options
@pass_settings
def command(
    settings: Settings,
    forward_to: str,
    types: list[str] | None,
    after: str | None,
    secret: str | None,
    secret_file: Path | None,
) -> None:
    """Post every event to URL as it happens, until interrupted: the same bytes and headers as a real delivery.

    Each is sent once; what fails is shown and not tried again. Without a secret nothing is signed.
    """
    keys = read_keys(secret, secret_file)
    receiver = Receiver(forward_to, keys)
    note(f"forwarding to {forward_to}, {'signed' if keys else 'unsigned (--secret-file FILE signs)'}; Ctrl-C ends it")
    for event in settings.client().stream_events(after=after, types=types):
        posted = receiver.post(event.id, event.body)
        _tell(settings, event, posted)
        sys.stdout.flush()


def _tell(settings: Settings, event: StreamedEvent, posted: Posted) -> None:
    body: Object = json.loads(event.body)
    if settings.as_json:
        told = {"event_id": event.id, "type": body["type"], "status": posted.status, "why": posted.why}
        sys.stdout.write(json.dumps({**told, "duration_ms": posted.took_ms}) + "\n")
    else:
        say(
            mark(posted.is_taken),
            posted.shown,
            f"{posted.took_ms} ms",
            body["type"],
            event.id,
            about(body),
            status_of(body),
        )
