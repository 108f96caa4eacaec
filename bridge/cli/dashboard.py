"""`runbridge dashboard`: a one-time link that signs a browser in."""

from __future__ import annotations

import sys

import click

from bridge.cli.options import Settings, common_options
from bridge.cli.output import print_value, say


@click.command
@click.option("--no-open", is_flag=True, help="Print the link only; otherwise a browser is opened on a terminal.")
@common_options
def dashboard(settings: Settings, no_open: bool) -> None:
    """Print a link that signs you in to the dashboard, and open it in a browser.

    The link works once, within a minute, and has the rights of your token. Its secret stands behind the #, which
    browsers do not send.
    """
    client = settings.client()
    address = client.address
    if address.socket is not None:
        raise click.UsageError(
            f"the daemon listens on {address}, which no browser reaches; put a proxy before it, or set [server] listen "
            'to an address such as "127.0.0.1:8484"'
        )
    made = client.post("v1", "session", "link").object()
    url = f"{address}/{made['fragment']}"
    if settings.as_json:
        print_value({"url": url, "expires_at": made["expires_at"]})
        return
    say(url)
    if not no_open and sys.stdout.isatty():
        click.launch(url)
