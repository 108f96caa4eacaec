"""`runbridge serve`: the daemon in the foreground."""

from __future__ import annotations

import os

import click

from bridge.cli.options import Settings, config_option, pass_settings


@click.command
@click.option("--listen", metavar="ADDRESS", help="host:port or unix:/path, instead of [server] listen.")
@click.option("--database", metavar="URL", help="sqlite:////path or postgresql://…, instead of [database] url.")
@config_option
@pass_settings
def command(settings: Settings, listen: str | None, database: str | None) -> int:
    """Run the daemon in the foreground.

    SIGTERM or Ctrl-C lets it finish what is in flight and end; SIGHUP makes it read its configuration again.
    """
    from bridge.config import find_config
    from bridge.process import main

    path = find_config(settings.config_path, os.environ)
    flags = {"server.listen": listen, "database.url": database}
    return main(path, {key: value for key, value in flags.items() if value is not None})
