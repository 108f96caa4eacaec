"""Print the manual page runbridge(1), made from the help of every command.

python deploy/man_page.py > runbridge.1
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from bridge import __version__
from bridge.cli.commands import runbridge

COMMON = {"--config", "--url", "--token", "--json", "--help"}  # described once, for all commands
FILES = {
    "./runbridge.toml, $XDG_CONFIG_HOME/runbridge/config.toml, /etc/runbridge/config.toml": (
        "The configuration: the first of them that exists, unless --config or RUNBRIDGE_CONFIG names another."
    ),
    "/var/lib/runbridge/runbridge.db": "The database of the system service, with its lock and key beside it.",
}
VARIABLES = {
    "RUNBRIDGE_CONFIG": "The configuration file.",
    "RUNBRIDGE_URL, RUNBRIDGE_TOKEN": "Address of the daemon and API token, for the commands that talk to it.",
    "RUNBRIDGE_SECTION__KEY": "Any setting of the configuration, such as RUNBRIDGE_SERVER__LISTEN.",
}
EXIT_CODES = {
    "0": "Done.",
    "1": "What was asked about failed: a run that failed under `runs wait`, a finding of `doctor`.",
    "2": "Wrong use: an unknown option, a value that cannot be.",
    "3": "The daemon cannot be reached.",
}


def escape(text: str) -> str:
    """Text for troff: no backslash or leading dot is taken as a command, hyphens stay hyphens."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; one that click must not wrap (after a backspace) keeps its lines."""
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in part.splitlines()]
        if lines[0] == "\b":
            yield from (".PP", ".nf", *map(escape, lines[1:]), ".fi")
        else:
            yield from (".PP", escape(" ".join(lines)))


def definitions(entries: dict[str, str]) -> Iterator[str]:
    """A list of terms and what they mean."""
    for term, text in entries.items():
        yield from (".TP", f"\\fB{escape(term)}\\fR", escape(text))


def options(command: click.Command, context: click.Context, *, common: bool) -> dict[str, str]:
    """The options of a command by their spelling; either those that all commands share, or the others."""
    shown = (
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and COMMON.isdisjoint(parameter.opts) is not common
    )
    return dict(record for record in shown if record)


def common_options(context: click.Context) -> dict[str, str]:
    """The options that all commands share, as `runs list` has them."""
    runs = runbridge.get_command(context, "runs")
    assert isinstance(runs, click.Group)
    listing = runs.get_command(context, "list")
    assert listing is not None
    return options(listing, click.Context(listing, parent=context), common=True)


def commands(group: click.Group, context: click.Context) -> Iterator[str]:
    """Every command below a group, in the order of its help."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from commands(command, inner)
            continue
        usage = " ".join(piece for piece in command.collect_usage_pieces(inner) if piece != "[OPTIONS]")
        yield f".SS {escape(inner.command_path)} {escape(usage)}".rstrip()
        yield from paragraphs(command.help or "")
        yield from definitions(options(command, inner, common=False))


def man_page() -> str:
    """The whole page."""
    context = click.Context(runbridge, info_name="runbridge")
    lines = [
        f'.TH RUNBRIDGE 1 "" "runbridge {__version__}" "User commands"',
        ".SH NAME",
        "runbridge \\- watch runs at their providers and send signed webhooks",
        ".SH SYNOPSIS",
        "\\fBrunbridge\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *paragraphs(runbridge.help or ""),
        ".SH COMMON OPTIONS",
        *definitions(common_options(context)),
        ".SH COMMANDS",
        *commands(runbridge, context),
        ".SH EXIT STATUS",
        *definitions(EXIT_CODES),
        ".SH ENVIRONMENT",
        *definitions(VARIABLES),
        ".SH FILES",
        *definitions(FILES),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(man_page(), end="")
