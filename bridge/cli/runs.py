"""`runbridge runs …`: register executions to watch, look at them, wait for them."""

from __future__ import annotations

import time
from typing import Any

import click

from bridge.cli.client import Client, Object, Patience
from bridge.cli.options import DurationText, EventTypes, Pair, Settings, common_options, pass_settings
from bridge.cli.output import ago, clean, print_json, print_table, print_value, say, status_text
from bridge.cli.output import note as remark
from bridge.cli.run_report import print_run
from bridge.domain.run import RunStatus

FAILURES = {"failed", "cancelled", "expired", "lost"}
LONGEST_WAIT_S = 60.0
RUN_COLUMNS = ("RUN", "CONNECTION", "PROVIDER RUN", "STATUS", "PROGRESS", "REGISTERED", "NEXT POLL")


@click.group
def command() -> None:
    """Register runs, look at them, wait for them."""


@command.command
@click.argument("connection")
@click.argument("provider_run_id")
@click.option("--workflow", metavar="ID", help="The workflow's id; cadence is learned per workflow.")
@click.option("--meta", metavar="NAME=VALUE", type=Pair("="), multiple=True, help="Comes back in every event.")
@click.option("--tag", metavar="TAG", multiple=True, help="For finding it again.")
@click.option("--deadline", metavar="2h|INSTANT", help="When a run that has not settled becomes expired.")
@click.option("--webhook", metavar="URL", help="Told of this run only.")
@click.option("--webhook-events", metavar="A,B", type=EventTypes(), help="What the webhook hears; else run.finished.")
@click.option("--wait", "is_waiting", is_flag=True, help="Stay until it settles; exit 1 if it did not end well.")
@common_options
@pass_settings
def add(
    settings: Settings,
    connection: str,
    provider_run_id: str,
    workflow: str | None,
    meta: tuple[tuple[str, str], ...],
    tag: tuple[str, ...],
    deadline: str | None,
    webhook: str | None,
    webhook_events: list[str] | None,
    is_waiting: bool,
) -> int:
    """Watch a run that was started at CONNECTION under PROVIDER_RUN_ID."""
    if webhook_events and not webhook:
        raise click.UsageError("--webhook-events needs --webhook URL")
    told = {"url": webhook, "events": webhook_events} if webhook else None
    given: Object = {
        "connection": connection,
        "provider_run_id": provider_run_id,
        "workflow_id": workflow,
        "metadata": dict(meta) or None,
        "tags": list(tag) or None,
        "deadline": deadline,
        "webhook": told and {key: value for key, value in told.items() if value},
    }
    client = settings.client()
    answer = client.post("v1", "runs", body={key: value for key, value in given.items() if value is not None})
    run = answer.object()
    if settings.as_json and not is_waiting:
        print_json(answer.body)
    elif not settings.as_json:
        _print_added(run, is_new=answer.status == 201)
    elif secret := (run.get("webhook") or {}).get("secret"):
        remark(f"webhook secret (shown this once): {secret}")  # the JSON to come is of the settled run, without it
    return wait_for(client, [run["id"]], settings, timeout_s=None) if is_waiting else 0


def _print_added(run: Object, *, is_new: bool) -> None:
    say(run["id"], "is watched" if is_new else "was watched already", status_text(run["status"]))
    if secret := (run.get("webhook") or {}).get("secret"):
        say("webhook secret (shown this once):", secret)


@command.command("list")
@click.option("--connection", metavar="NAME")
@click.option("--status", type=click.Choice([status.value for status in RunStatus]))
@click.option("--tag", metavar="TAG")
@click.option("--workflow", metavar="ID")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", help="Where the list before this one ended.")
@common_options
@pass_settings
def list_runs(settings: Settings, /, workflow: str | None, **query: Any) -> None:
    """The watched runs, newest first."""
    answer = settings.client().get("v1", "runs", workflow_id=workflow, **query)
    if settings.as_json:
        print_json(answer.body)
        return
    print_table(RUN_COLUMNS, (run_row(run) for run in answer.rows()))
    tell_more(answer.object())


def tell_more(listed: Object) -> None:
    """Say how to go on where a list is longer than one page."""
    if cursor := listed.get("next_cursor"):
        remark(f"there is more: --cursor {cursor}")


def run_row(run: Object) -> tuple[Any, ...]:
    """One line of the list, and of `watch`."""
    return (
        run["id"],
        run["connection"],
        run["provider_run_id"],
        status_text(run["status"]),
        progress_of(run),
        ago(run.get("registered_at")),
        ago(run.get("next_poll_at")),
    )


def progress_of(run: Object) -> str:
    """`3/5`, or nothing where the provider tells none, or does not know yet of how many."""
    progress = run.get("progress")
    return f"{progress['completed']}/{progress['total']}" if progress and progress["total"] else ""


@command.command
@click.argument("run_id")
@common_options
@pass_settings
def show(settings: Settings, run_id: str) -> None:
    """One run: how it went, what was told, when it is looked at next and why."""
    client = settings.client()
    answer = client.get("v1", "runs", run_id)
    if settings.as_json:
        print_json(answer.body)
    else:
        print_run(answer.object(), client.get("v1", "deliveries", run=run_id, limit=200).rows())


@command.command
@click.argument("run_id", nargs=-1, required=True)
@click.option("--timeout", type=DurationText(), help="Give up after this long (exit 1).")
@common_options
@pass_settings
def wait(settings: Settings, run_id: tuple[str, ...], timeout: float | None) -> int:
    """Stay until every RUN_ID has settled; exit 1 if one failed, was cancelled, expired or got lost."""
    return wait_for(settings.client(), list(run_id), settings, timeout_s=timeout)


def wait_for(client: Client, run_ids: list[str], settings: Settings, *, timeout_s: float | None) -> int:
    """Wait for each run in turn and print how it ended; 1 if one did not end well, else 0."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    code = 0
    for run_id in run_ids:
        run = _wait_for_one(client, run_id, end)
        if settings.as_json:
            print_value(run)
        else:
            _print_end(run)
        if not run["settled"] or run["status"] in FAILURES:
            code = 1
    return code


def _wait_for_one(client: Client, run_id: str, end: float | None) -> Object:
    patience = Patience()
    while True:
        left_s = LONGEST_WAIT_S if end is None else min(LONGEST_WAIT_S, max(0.0, end - time.monotonic()))
        run = patience.keep_trying(
            lambda s=left_s: client.get("v1", "runs", run_id, "wait", timeout=f"{s:g}", timeout_s=s + 30.0)  # type: ignore[misc]
        ).object()
        if run["settled"] or (end is not None and time.monotonic() >= end):
            return run


def _print_end(run: Object) -> None:
    error = (run.get("error") or {}).get("message")
    state = status_text(run["status"]) if run["settled"] else f"is still {run['status']}"
    say(run["id"], state, clean(error) if error else None)


@command.command
@click.argument("run_id", nargs=-1)
@common_options
@pass_settings
def watch(settings: Settings, run_id: tuple[str, ...]) -> int:
    """A live view of the newest runs, or of each RUN_ID until all have settled (exit codes as in `wait`)."""
    from bridge.cli.watch import watch_runs

    return watch_runs(settings.client(), list(run_id), as_json=settings.as_json)


@command.command
@click.argument("run_id", nargs=-1, required=True)
@common_options
@pass_settings
def poll(settings: Settings, run_id: tuple[str, ...]) -> None:
    """Look at RUN_ID now instead of when its turn comes."""
    _each(settings, run_id, "poll", "will be looked at now;")


@command.command
@click.argument("run_id", nargs=-1, required=True)
@common_options
@pass_settings
def cancel(settings: Settings, run_id: tuple[str, ...]) -> None:
    """Ask the provider to cancel RUN_ID, where it can; watching goes on until it says so."""
    _each(settings, run_id, "cancel", "was asked to stop;")


def _each(settings: Settings, run_ids: tuple[str, ...], operation: str, told: str) -> None:
    client = settings.client()
    for run_id in run_ids:
        answer = client.post("v1", "runs", run_id, operation)
        if settings.as_json:
            print_json(answer.body)
        else:
            say(run_id, told, "now", status_text(answer.object().get("status", "unknown")))


@command.command
@click.argument("run_id", nargs=-1, required=True)
@common_options
@pass_settings
def rm(settings: Settings, run_id: tuple[str, ...]) -> None:
    """Stop watching RUN_ID; nothing is told, and at the provider it goes on."""
    client = settings.client()
    for each in run_id:
        client.delete("v1", "runs", each)
        if not settings.as_json:
            say(each, "is no longer watched")
