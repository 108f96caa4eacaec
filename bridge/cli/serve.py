"""`runbridge serve`, `init`, `demo`, `health` and `nodes`: start a daemon, ask whether it can work, list those that run."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bridge.cli.options import Settings, common_options, config_option, file_options, pass_settings
from bridge.domain.errors import BridgeError

DEFAULT_LISTEN = "127.0.0.1:8484"
HEALTH_TIMEOUT_S = 10.0


@click.command
@click.option("--listen", metavar="ADDRESS", help="host:port or unix:/path, instead of [server] listen.")
@click.option("--database", metavar="URL", help="sqlite:////path or postgresql://…, instead of [database] url.")
@config_option
@pass_settings
def serve(settings: Settings, listen: str | None, database: str | None) -> int:
    """Run the daemon in the foreground.

    SIGTERM and Ctrl-C finish the requests in flight and stop it. SIGHUP reloads the configuration.
    """
    gc.disable()  # most objects made during the start stay; `process` enables it after that
    try:
        # structlog would import them for colours, which a daemon never shows, and for a context that it does not use: 7 MB
        with absent("rich"), absent("colorama"), absent("greenlet"):
            import structlog  # noqa: F401 - so that it is imported without
        from bridge.config.locate import find_config
        from bridge.process import main

        path = find_config(settings.config_path, os.environ)
        flags = {"server.listen": listen, "database.url": database}
        return main(path, {key: value for key, value in flags.items() if value is not None})
    finally:
        gc.enable()


@contextlib.contextmanager
def absent(name: str) -> Iterator[None]:
    """Let imports of an optional library fail, as if it was not installed."""
    known = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment] # how the import system marks a missing module
    try:
        yield
    finally:
        del sys.modules[name]
        if known is not None:
            sys.modules[name] = known


@click.command
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--listen", metavar="ADDRESS", help=f"host:port or unix:/path; default: {DEFAULT_LISTEN}.")
@click.option(
    "--database", metavar="URL", help="sqlite:////path or postgresql://…; default: a file in the state folder."
)
@file_options
def init(settings: Settings, path: Path | None, listen: str | None, database: str | None) -> None:
    """Write a first configuration with a new token to PATH (default: ~/.config/runbridge/config.toml).

    An existing file is never overwritten. Only you can read the new one (mode 0600).
    """
    from bridge.cli.output import print_value, say
    from bridge.config.locate import user_config
    from bridge.config.starter import init_config

    target = path or settings.config_path or user_config(os.environ)
    if target.is_dir():
        target /= "runbridge.toml"
    init_config(target, listen=listen or DEFAULT_LISTEN, database_url=database)
    if settings.as_json:
        print_value({"path": str(target)})
        return
    is_found_by_default = target == user_config(os.environ) or target.absolute() == Path("runbridge.toml").absolute()
    flag = "" if is_found_by_default else f" --config {target}"
    say("wrote", str(target), "with a new token")
    say("next: add a provider's key to it, then run")
    say(f"  runbridge config check{flag}")
    say(f"  runbridge serve{flag}")


@click.command
def demo() -> int:
    """Run the main job: sandbox providers, the daemon, and a receiver that verifies signatures.

    Needs no account and no configuration, and ends by itself within a minute.
    """
    from bridge.sandbox.demo import main

    return main()


@click.command
@common_options
def health(settings: Settings) -> int:
    """Exit 0 if the daemon can work, otherwise 1; prints nothing, for the health check of a container."""
    try:
        settings.client().get("readyz", timeout_s=HEALTH_TIMEOUT_S)
    except (BridgeError, click.UsageError):
        return 1
    return 0


@click.command
@common_options
def nodes(settings: Settings) -> None:
    """List the daemons that share this database, the longest running first, with the leases that each holds."""
    from bridge.cli.output import ago, print_page, status_text

    columns = ("NODE", "HOST", "PID", "VERSION", "STATE", "STARTED", "LEASE ENDS", "RUNS", "DELIVERIES")
    print_page(
        settings.client().get("v1", "nodes"),
        columns,
        lambda node: (
            node["id"],
            node["host"],
            node["pid"],
            node["version"],
            status_text("alive" if node["alive"] else "dead"),
            ago(node["started_at"]),
            ago(node["lease_expires_at"]),
            node["runs"],
            node["deliveries"],
        ),
        as_json=settings.as_json,
        keep=("NODE", "STATE", "RUNS", "DELIVERIES", "LEASE ENDS", "STARTED", "HOST", "PID", "VERSION"),
    )
