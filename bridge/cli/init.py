"""`runbridge init`: a first configuration, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bridge.cli.options import Settings, config_option, json_option, pass_settings
from bridge.cli.output import print_value, say


@click.command
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--listen", metavar="ADDRESS", help="host:port or unix:/path; else 127.0.0.1:8484.")
@click.option("--database", metavar="URL", help="sqlite:////path or postgresql://…; else a file in your state folder.")
@config_option
@json_option
@pass_settings
def command(settings: Settings, path: Path | None, listen: str | None, database: str | None) -> None:
    """Write a first configuration with a fresh token to PATH (else ~/.config/runbridge/config.toml).

    Never overwrites. The file is readable by you alone (0600).
    """
    from bridge.config import init_config, user_config

    target = path or settings.config_path or user_config(os.environ)
    if target.is_dir():
        target /= "runbridge.toml"
    init_config(target, listen=listen or "127.0.0.1:8484", database_url=database)
    if settings.as_json:
        print_value({"path": str(target)})
        return
    found_by_itself = target == user_config(os.environ) or target.absolute() == Path("runbridge.toml").absolute()
    flag = "" if found_by_itself else f" --config {target}"
    say("wrote", str(target), "with a fresh token")
    say("next: put a provider's key in,")
    say(f"  runbridge config check{flag}")
    say(f"  runbridge serve{flag}")
