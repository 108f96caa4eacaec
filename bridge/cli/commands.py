"""The command table: every noun, the file that holds it, and the line that `--help` shows.

A file is imported when its command is called, so that `runbridge runs list` does not load the database.
"""

from __future__ import annotations

import platform
import sqlite3
from dataclasses import dataclass
from importlib import import_module

import click

from bridge import __version__
from bridge.cli.options import common_options


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: the module in this room that holds it as `command`, and its line in `--help`."""

    module: str
    help: str


TABLE = {
    "serve": Entry("serve", "Run the daemon in the foreground."),
    "init": Entry("init", "Write a first configuration with a fresh token."),
    "demo": Entry("demo", "See the whole thing work against sandbox providers."),
    "runs": Entry("runs", "Register runs, look at them, wait for them."),
    "endpoints": Entry("endpoints", "Who is told: subscribers and their secrets."),
    "events": Entry("events", "What happened, in order; tail it, replay it."),
    "deliveries": Entry("deliveries", "What was sent where, with every attempt."),
    "replays": Entry("replays", "How far replays are; stop one."),
    "connections": Entry("connections", "Accounts at providers, and whether they answer."),
    "nodes": Entry("nodes", "The daemons that share one database."),
    "providers": Entry("providers", "The kinds of API that can be watched."),
    "listen": Entry("listen", "Forward events to a local URL while you develop."),
    "trigger": Entry("trigger", "Send a test event."),
    "verify": Entry("verify", "Check the signature of a received webhook."),
    "guard": Entry("guard", "Why an address may or may not be posted to."),
    "config": Entry("config", "Check and show the configuration."),
    "db": Entry("db", "Upgrade, check and back up the database."),
    "doctor": Entry("doctor", "Look for anything that is or will be wrong."),
}


class ReaderGone(Exception):
    """Whoever read our output (`head`, a pager) went away. Not an OSError: click would answer that with exit code 1."""


class CommandTable(click.Group):
    """The commands of TABLE, loaded when called for."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; ReaderGone instead of a broken pipe."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order."""
        return list(TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; None for an unknown name."""
        entry = TABLE.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = import_module(f"bridge.cli.{entry.module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with; a wrong name is answered with what was probably meant."""
        if args[0] not in TABLE and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=list(TABLE), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without loading anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in TABLE.items()])


_EPILOG = """\b
Exit codes: 0 done, 1 the thing asked about failed, 2 wrong use, 3 daemon not reachable.
Address and token: --url/--token, then RUNBRIDGE_URL/RUNBRIDGE_TOKEN, then the configuration file.
Completion, for your shell's start-up file (or zsh_source, fish_source):
  eval "$(_RUNBRIDGE_COMPLETE=bash_source runbridge)"
"""

_VERSION = f"%(prog)s %(version)s (Python {platform.python_version()}, SQLite {sqlite3.sqlite_version})"


@click.group(cls=CommandTable, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="runbridge", message=_VERSION)
@common_options
def runbridge() -> None:
    """Watch runs at AI-workflow and document-processing providers, and tell your application when they are over."""
