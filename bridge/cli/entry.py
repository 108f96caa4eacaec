"""Running one command: whatever happens inside becomes an exit code and at most a few sentences."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from bridge.cli.client import ApiRefused, DaemonUnreachable
from bridge.cli.commands import ReaderGone, runbridge
from bridge.cli.output import clean
from bridge.domain.errors import BridgeError, InvalidInput

_OUR_CODE = Path(__file__).parent.parent
FAILED, WRONG_USE, UNREACHABLE, INTERRUPTED, NO_READER = 1, 2, 3, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and answer the exit code; `arguments` default to the process's own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ shows ?, it does not end the program
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        # The reader (`head`, a pager) went away. Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        answer = runbridge.main(arguments, prog_name="runbridge", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (BrokenPipeError, ReaderGone):
        raise
    except BridgeError as error:
        return _explain(error)
    except OSError as error:
        return _complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except Exception as error:  # noqa: BLE001 - the door: a fault of ours is one line, not a traceback
        return _complain(
            f"a fault in runbridge itself ({type(error).__name__} at {_place_of(error)}); please report it"
        )
    return answer if isinstance(answer, int) else 0


def _place_of(error: Exception) -> str:
    """Where in our own code it happened. Never the error's text: a database's may hold the values of a row."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_OUR_CODE)] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _explain(error: BridgeError) -> int:
    match error:
        case DaemonUnreachable():
            _complain(str(error))
            return UNREACHABLE
        case ApiRefused():
            _complain(str(error))
            return WRONG_USE if error.is_wrong_use else FAILED
        case InvalidInput():
            for problem in error.problems:
                _complain(f"{problem.field}: {problem.message}")
            return WRONG_USE
        case _:
            return _complain(str(error))


def _complain(message: str) -> int:
    click.echo(f"runbridge: {clean(message)}", err=True)
    return FAILED
