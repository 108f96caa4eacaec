"""`runbridge listen`: forward events to a local URL during development, without an endpoint or a tunnel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bridge.cli.client import Object
from bridge.cli.events import about, status_of
from bridge.cli.options import EVENT_TYPES, Settings, common_options, read_keys, secret_options
from bridge.cli.output import mark, note, say
from bridge.cli.webhook_post import WebhookTarget
from bridge.domain.webhook_url import mask_query_secrets


@click.command
@click.option("--forward-to", metavar="URL", required=True, help="Where your application listens.")
@click.option("--events", "types", metavar="A,B", type=EVENT_TYPES, help="Only these types; default: all.")
@click.option("--after", metavar="EVENT", help="Start after this event; default: with the next one recorded.")
@secret_options
@common_options
def listen(
    settings: Settings,
    forward_to: str,
    types: list[str] | None,
    after: str | None,
    secret: str | None,
    secret_file: Path | None,
) -> None:
    """Post every event to URL as it is recorded, until interrupted, with the bytes and headers of a real delivery.

    Each event is sent once; failures are shown and not retried. Without a secret, requests are not signed.
    """
    keys = read_keys(secret, secret_file)
    target = WebhookTarget(forward_to, keys)
    note(
        f"forwarding to {mask_query_secrets(forward_to)}, {'signed' if keys else 'unsigned (--secret-file FILE signs)'}; Ctrl-C stops it"
    )
    for event in settings.client().stream_events(after=after, types=types):
        result = target.post(event.id, event.body)
        body: Object = json.loads(event.body)
        if settings.as_json:
            sys.stdout.write(json.dumps({"event_id": event.id, "type": body["type"], **result.as_object()}) + "\n")
        else:
            took = f"{result.took_ms} ms"
            say(mark(result.is_accepted), str(result), took, body["type"], event.id, about(body), status_of(body))
        sys.stdout.flush()
