"""`runbridge doctor`: look for anything that is or will be wrong, and say what to do about it."""

from __future__ import annotations

import os

import click

from bridge.cli.checkup import Finding, all_findings
from bridge.cli.options import Settings, common_options, pass_settings
from bridge.cli.output import mark, print_value, say


@click.command
@click.option("--offline", is_flag=True, help="Ask no provider anything.")
@common_options
@pass_settings
def command(settings: Settings, offline: bool) -> int:
    """Look for anything that is or will be wrong; exit 1 if something is (✗), 0 for remarks alone (!)."""
    findings: list[Finding] = []
    for finding in all_findings(settings, os.environ, is_offline=offline):
        findings.append(finding)
        if not settings.as_json:
            say(mark(finding.is_good), f"{finding.what}:", finding.detail)
    if settings.as_json:
        levels = {True: "ok", None: "remark", False: "wrong"}
        print_value([{"check": f.what, "result": levels[f.is_good], "detail": f.detail} for f in findings])
    return 1 if any(finding.is_good is False for finding in findings) else 0
