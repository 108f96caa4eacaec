"""`runbridge alerts …`: try the channels that send alerts to people."""

from __future__ import annotations

import click

from bridge.cli.options import Settings, common_options
from bridge.cli.output import mark, print_json, say


@click.group
def alerts() -> None:
    """The channels that send alerts to people."""


@alerts.command
@click.argument("channels", metavar="[CHANNEL]...", nargs=-1)
@common_options
def test(settings: Settings, channels: tuple[str, ...]) -> int:
    """Let the daemon send a test message by each CHANNEL, or by all; exit 1 if one does not take it."""
    body = {"channels": list(channels)} if channels else {}
    response = settings.client().post("v1", "alerts", "test", body=body)
    tried = response.object()["data"]
    if settings.as_json:
        print_json(response.body)
    elif not tried:
        say("no channel is configured; add one under [alerts.NAME] and reload the daemon")
    else:
        for one in tried:
            say(mark(one["ok"]), f"{one['channel']} ({one['kind']}):", one["detail"])
    return 0 if tried and all(one["ok"] for one in tried) else 1
