"""`runbridge config …`: check the configuration, and show what is in effect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from bridge.cli.options import Settings, config_option, json_option, pass_settings
from bridge.cli.output import clean, mark, print_table, print_value, say
from bridge.domain.errors import Problem

if TYPE_CHECKING:
    from bridge.config.load import Config


@click.group
def config() -> None:
    """Check and show the configuration."""


@config.command
@config_option
@json_option
@pass_settings
def check(settings: Settings) -> int:
    """Read the configuration with its secrets, and list every mistake; exit 1 if there is one."""
    from bridge.config.load import ConfigInvalid
    from bridge.config.locate import find_config

    path = find_config(settings.config_path, os.environ)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    try:
        warnings += load(settings).warnings
    except ConfigInvalid as invalid:
        problems = invalid.problems
    if settings.as_json:
        print_value(
            {"path": path and str(path), "ok": not problems, "errors": _shown(problems), "warnings": _shown(warnings)}
        )
    else:
        for is_good, found in ((False, problems), (None, warnings)):
            for problem in found:
                say(mark(is_good), f"{problem.field}: {problem.message}")
        if not problems:
            say(
                mark(is_good=True),
                str(path) if path else "no configuration file, only the environment:",
                "no mistakes",
            )
    return 1 if problems else 0


def _shown(problems: list[Problem]) -> list[dict[str, str]]:
    return [{"field": problem.field, "message": problem.message} for problem in problems]


@config.command
@click.option("--origin", "with_origin", is_flag=True, help="Show where each value comes from.")
@config_option
@json_option
@pass_settings
def show(settings: Settings, with_origin: bool) -> None:
    """Show every setting in effect, secrets as ****."""
    from bridge.config.show import show_config

    rows = show_config(load(settings))
    if settings.as_json:
        origins = [{"origin": row.origin} if with_origin else {} for row in rows]
        print_value([{"key": row.key, "value": row.value, **origin} for row, origin in zip(rows, origins, strict=True)])
    elif with_origin:
        print_table(("KEY", "VALUE", "FROM"), ((row.key, clean(row.value), row.origin) for row in rows))
    else:
        print_table(("KEY", "VALUE"), ((row.key, clean(row.value)) for row in rows))


def load(settings: Settings) -> Config:
    """Load the configuration as `serve` does; raises ConfigInvalid with every mistake."""
    from bridge.config.load import load_config
    from bridge.config.locate import find_config

    return load_config(find_config(settings.config_path, os.environ), env=os.environ)
