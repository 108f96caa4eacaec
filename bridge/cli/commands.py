"""The command table, and `main`, which turns every result and error of a command into an exit code.

A file is imported when its command is called, so that `runbridge runs list` does not load the database, and what only
some results need when they come up: importing takes most of the time of `runbridge --help`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click

from bridge import __version__
from bridge.cli.daemon_address import ApiRefused, DaemonUnreachable
from bridge.cli.options import daemon_options
from bridge.domain.errors import BridgeError, InvalidInput

FAILED, WRONG_USE, UNREACHABLE, INTERRUPTED, READER_GONE = 1, 2, 3, 130, 141
_BRIDGE_FOLDER = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command: the module of this package that defines it under its own name, and its line in `--help`."""

    module: str
    help: str


TABLE = {
    "serve": CommandEntry("serve", "Run the daemon in the foreground."),
    "init": CommandEntry("serve", "Write a first configuration with a new token."),
    "demo": CommandEntry("serve", "Run the main job against sandbox providers."),
    "sandbox": CommandEntry("sandbox", "Fake providers, and a receiver that verifies signatures."),
    "runs": CommandEntry("runs", "Register runs, show them, wait for them."),
    "endpoints": CommandEntry("endpoints", "Subscribers, their filters and their secrets."),
    "events": CommandEntry("events", "List, show, follow and replay events."),
    "deliveries": CommandEntry("deliveries", "What was sent to each endpoint, with every attempt."),
    "replays": CommandEntry("replays", "Progress of replays; cancel one."),
    "connections": CommandEntry("connections", "Accounts at providers, and whether they answer."),
    "alerts": CommandEntry("alerts", "The channels that send alerts to people."),
    "dashboard": CommandEntry("dashboard", "Print and open a link that signs you in to the dashboard."),
    "nodes": CommandEntry("serve", "The daemons that share one database."),
    "providers": CommandEntry("providers", "The kinds of API that can be watched."),
    "listen": CommandEntry("listen", "Forward events to a local URL during development."),
    "trigger": CommandEntry("trigger", "Send a test event."),
    "verify": CommandEntry("verify", "Check the signature of a received webhook."),
    "guard": CommandEntry("guard", "Explain whether the daemon may post to an address."),
    "config": CommandEntry("config", "Check and show the configuration."),
    "db": CommandEntry("db", "Upgrade, check and back up the database."),
    "doctor": CommandEntry("doctor", "Check this installation and say what to repair."),
    "health": CommandEntry("serve", "Exit 0 if the daemon can work, else 1; for containers."),
}


class ReaderGone(Exception):
    """The reader of our output (`head`, a pager) closed it. Not an OSError: click answers that with exit code 1."""


class CommandTable(click.Group):
    """The commands of TABLE, imported when called."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; raise ReaderGone instead of BrokenPipeError."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; None for an unknown name."""
        entry = TABLE.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(import_module(f"bridge.cli.{entry.module}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with; an unknown name raises NoSuchCommand with the closest names."""
        if args[0] not in TABLE and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=list(TABLE), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for `--help` without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in TABLE.items()])


_EPILOG = """\b
Exit codes: 0 done, 1 the thing asked about failed, 2 wrong use, 3 daemon not reachable.
Address and token: --url/--token, then RUNBRIDGE_URL/RUNBRIDGE_TOKEN, then the configuration file.
Completion, for your shell's start-up file (or zsh_source, fish_source):
  eval "$(_RUNBRIDGE_COMPLETE=bash_source runbridge)"
"""


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        import platform
        import sqlite3

        click.echo(f"runbridge {__version__} (Python {platform.python_version()}, SQLite {sqlite3.sqlite_version})")
        ctx.exit()


@click.group(cls=CommandTable, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@daemon_options
def runbridge() -> None:
    """Watch runs at AI-workflow and document-processing providers, and notify your application when they finish."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; `arguments` default to those of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ shows ? instead of ending the program
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        # Without this, Python complains when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = runbridge.main(arguments, prog_name="runbridge", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (BrokenPipeError, ReaderGone):
        raise
    except BridgeError as error:
        return _report(error)
    except OSError as error:
        return _print_error(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except Exception as error:  # noqa: BLE001 - the outermost frame: a fault of ours is one line, not a traceback
        return _print_error(
            f"a fault in runbridge itself ({type(error).__name__} at {_place_of(error)}); please report it"
        )
    return result if isinstance(result, int) else 0


def _place_of(error: Exception) -> str:
    """The file and line of our code. Never the error's text: a database error may quote the values of a row."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_BRIDGE_FOLDER)] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _report(error: BridgeError) -> int:
    match error:
        case DaemonUnreachable():
            _print_error(str(error))
            return UNREACHABLE
        case ApiRefused():
            _print_error(str(error))
            return WRONG_USE if error.is_wrong_use else FAILED
        case InvalidInput():
            for problem in error.problems:
                _print_error(f"{problem.field}: {problem.message}")
            return WRONG_USE
        case _:
            return _print_error(str(error))


def _print_error(message: str) -> int:
    from bridge.cli.output import clean

    click.echo(f"runbridge: {clean(message)}", err=True)
    return FAILED
