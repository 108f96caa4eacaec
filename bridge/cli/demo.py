"""`runbridge demo`: the whole thing at work against sandbox providers."""

from __future__ import annotations

import click


@click.command
def command() -> int:
    """See the whole thing work: sandbox providers, the daemon and a receiver that verifies signatures.

    Needs no account and no configuration, and ends by itself within a minute.
    """
    from bridge.sandbox.demo import main

    return main()
