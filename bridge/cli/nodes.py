"""`runbridge nodes`: the daemons that share one database."""

from __future__ import annotations

import click

from bridge.cli.options import Settings, common_options, pass_settings
from bridge.cli.output import ago, print_json, print_table, status_text


@click.command
@common_options
@pass_settings
def command(settings: Settings) -> None:
    """The daemons that share this database, the longest running first, and what each holds."""
    answer = settings.client().get("v1", "nodes")
    if settings.as_json:
        print_json(answer.body)
        return
    print_table(
        ("NODE", "HOST", "PID", "VERSION", "STATE", "STARTED", "LEASE ENDS", "RUNS", "DELIVERIES"),
        (
            (
                node["id"],
                node["host"],
                node["pid"],
                node["version"],
                status_text("alive" if node["alive"] else "dead"),
                ago(node["started_at"]),
                ago(node["lease_expires_at"]),
                node["runs"],
                node["deliveries"],
            )
            for node in answer.rows()
        ),
    )
