"""`runbridge runs …`: register runs, show them, wait for them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from bridge.cli.client import Client, Object, Patience
from bridge.cli.options import (
    CONNECTION,
    EVENT_TYPES,
    RUN,
    DurationText,
    InstantText,
    Names,
    Pair,
    Settings,
    combined,
    common_options,
    paging_options,
)
from bridge.cli.output import clean, note, print_json, print_page, print_result, print_value, say, status_text
from bridge.cli.run_report import FAILURES, RUN_COLUMNS, RUN_COLUMNS_KEPT, print_run, run_row
from bridge.domain.run import RunStatus

_STATUSES = [status.value for status in RunStatus]
WAIT_CALL_S = 60.0  # the longest wait of one call


@click.group
def runs() -> None:
    """Register runs, show them, wait for them."""


@runs.command
@click.argument("connection", type=CONNECTION)
@click.argument("provider_run_id")
@click.option("--workflow", metavar="ID", help="The id of its workflow; durations are learned per workflow.")
@click.option("--meta", metavar="NAME=VALUE", type=Pair("="), multiple=True, help="Returned in every event.")
@click.option("--tag", metavar="TAG", multiple=True, help="A tag to list it by.")
@click.option("--deadline", metavar="2h|INSTANT", help="When a run that has not settled becomes expired.")
@click.option("--webhook", metavar="URL", help="An endpoint for this run only.")
@click.option("--webhook-events", metavar="A,B", type=EVENT_TYPES, help="Events of the webhook; default: run.finished.")
@click.option("--rewatch", is_flag=True, help="Watch it again as a new run if it has settled.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until it settles; exit 1 if it did not end well.")
@common_options
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
    rewatch: bool,
    is_waiting: bool,
) -> int:
    """Watch the run PROVIDER_RUN_ID, which was started at CONNECTION."""
    if webhook_events and not webhook:
        raise click.UsageError("--webhook-events needs --webhook URL")
    one_run_endpoint = {"url": webhook} | ({"events": webhook_events} if webhook_events else {})
    body: Object = {
        "connection": connection,
        "provider_run_id": provider_run_id,
        "workflow_id": workflow,
        "metadata": dict(meta) or None,
        "tags": list(tag) or None,
        "deadline": deadline,
        "webhook": one_run_endpoint if webhook else None,
        "rewatch": rewatch or None,
    }
    client = settings.client()
    response = client.post("v1", "runs", body={key: value for key, value in body.items() if value is not None})
    run = response.object()
    secret = (run.get("webhook") or {}).get("secret")
    if not settings.as_json:
        say(run["id"], "is watched" if response.status == 201 else "was watched already", status_text(run["status"]))
        if secret:
            say("webhook secret (shown only once):", secret)
    elif not is_waiting:
        print_json(response.body)
    elif secret:
        note(f"webhook secret (shown only once): {secret}")  # the JSON that follows, of the settled run, is without it
    return wait_for(client, [run["id"]], settings, timeout_s=None) if is_waiting else 0


@runs.command
@click.argument("connection", type=CONNECTION)
@click.option("--workflow", metavar="ID", required=True, help="The workflow to start, as the provider calls it.")
@click.option(
    "--input",
    "given",
    metavar="NAME=VALUE|@FILE",
    multiple=True,
    help="An input: VALUE is JSON, else text; @FILE is a JSON object of inputs. May be repeated.",
)
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until it settles; exit 1 if it did not end well.")
@common_options
def start(settings: Settings, connection: str, workflow: str, given: tuple[str, ...], is_waiting: bool) -> int:
    """Start a run at CONNECTION and watch it."""
    trigger: Object = {"workflow_id": workflow, "inputs": _inputs(given)}
    client = settings.client()
    response = client.post("v1", "runs", body={"connection": connection, "trigger": trigger})
    run = response.object()
    if not settings.as_json:
        say(run["id"], "is started and watched as", clean(run["provider_run_id"]), status_text(run["status"]))
    elif not is_waiting:
        print_json(response.body)
    if is_waiting and not settings.as_json:
        _show_progress(client, run["id"])
    return wait_for(client, [run["id"]], settings, timeout_s=None) if is_waiting else 0


def _inputs(given: tuple[str, ...]) -> Object:
    """The inputs of --input, in order: names with values, or files with objects."""
    inputs: Object = {}
    for each in given:
        if each.startswith("@"):
            try:
                from_file = json.loads(Path(each[1:]).read_bytes())
            except OSError as error:
                raise click.UsageError(f"--input {each}: cannot be read: {error.strerror}") from None
            except ValueError as error:
                raise click.UsageError(f"--input {each}: is not JSON: {error}") from None
            if not isinstance(from_file, dict):
                raise click.UsageError(f"--input {each}: is not a JSON object")
            inputs |= from_file
            continue
        name, separator, value = each.partition("=")
        if not separator or not name.strip():
            raise click.UsageError(f"--input {each}: expected NAME=VALUE or @FILE")
        try:
            inputs[name.strip()] = json.loads(value)
        except ValueError:
            inputs[name.strip()] = value
    return inputs


def _show_progress(client: Client, run_id: str) -> None:
    """A line for each status and progress until the run settles."""
    shown, patience = None, Patience()
    while True:
        run = patience.keep_trying(
            lambda: client.get("v1", "runs", run_id, "wait", timeout="1", timeout_s=31.0).object()
        )
        if run["settled"]:
            return
        progress = run.get("progress") or {}
        seen = (run["status"], progress.get("completed"), progress.get("total"))
        if seen != shown:
            shown = seen
            note(run["status"] + (f" {seen[1]} of {seen[2]}" if progress else ""))


_filter_options = combined(
    click.option("--connection", metavar="NAME", type=CONNECTION, help="Only runs of this connection."),
    click.option(
        "--status",
        metavar="A,B",
        type=Names("status", lambda: _STATUSES),
        multiple=True,
        help=f"Only runs in one of these statuses: {', '.join(_STATUSES)}.",
    ),
    click.option("--state", type=click.Choice(["open", "settled"]), help="Only open or only settled runs."),
    click.option("--tag", metavar="TAG", help="Only runs with this tag."),
    click.option("--workflow", "workflow_id", metavar="ID", help="Only runs of this workflow."),
    click.option("--id", "q", metavar="PREFIX", help="Only runs whose id, here or there, begins like this."),
    click.option("--meta", metavar="NAME=VALUE", type=Pair("="), multiple=True, help="Only runs with this metadata."),
    click.option("--since", type=InstantText(), help="Only runs registered since: 2h (ago) or an instant."),
    click.option("--until", type=InstantText(), help="Only runs registered until: 2h (ago) or an instant."),
)


def _query(meta: tuple[tuple[str, str], ...], status: tuple[list[str], ...], **options: Any) -> dict[str, Any]:
    """The filter options as query parameters of the API."""
    wanted = {"status": [name for names in status for name in names]} if status else {}
    return {**options, **wanted, **{f"metadata.{name}": value for name, value in meta}}


def find_run(client: Client, given: str) -> str:
    """The id in the API for `given`: our id, CONNECTION:PROVIDER_RUN_ID, or a provider's id alone.

    Raises click.UsageError if several connections have a run with this provider's id.
    """
    if given.startswith("run_") or ":" in given:
        return given
    found = client.get("v1", "runs", provider_run_id=given, limit=20).rows()
    names = dict.fromkeys(f"{run['connection']}:{run['provider_run_id']}" for run in found)
    if len(names) > 1:
        raise click.UsageError(f"several connections have a run {given}; name one of {', '.join(names)}")
    return found[0]["id"] if found else given


@runs.command("list")
@_filter_options
@paging_options("Runs")
@common_options
def list_runs(settings: Settings, /, **query: Any) -> None:
    """List the watched runs, newest first."""
    response = settings.client().get("v1", "runs", **_query(**query))
    print_page(response, RUN_COLUMNS, run_row, as_json=settings.as_json, keep=RUN_COLUMNS_KEPT)


@runs.command
@click.argument("run_id", type=RUN)
@common_options
def show(settings: Settings, run_id: str) -> None:
    """Show RUN_ID: its timeline, its events and deliveries, its next poll and the reason for it.

    Here and in the commands below, RUN_ID may also be the provider's id, or CONNECTION:PROVIDER_RUN_ID.
    """
    client = settings.client()
    print_result(
        client.get("v1", "runs", find_run(client, run_id)),
        lambda run: print_run(run, client.get("v1", "deliveries", run=run["id"], limit=200).rows()),
        as_json=settings.as_json,
    )


@runs.command
@click.argument("run_id", type=RUN, nargs=-1, required=True)
@click.option("--timeout", type=DurationText("s"), help="Give up after this time, 60 or 5m (exit 1).")
@common_options
def wait(settings: Settings, run_id: tuple[str, ...], timeout: float | None) -> int:
    """Wait until every RUN_ID has settled; exit 1 if one failed, was cancelled, expired or was lost."""
    return wait_for(settings.client(), list(run_id), settings, timeout_s=timeout)


def wait_for(client: Client, run_ids: list[str], settings: Settings, *, timeout_s: float | None) -> int:
    """Wait for each run in turn and print its result; 1 if one has not settled or did not end well, else 0."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    code = 0
    for run_id in run_ids:
        run = _wait_for_one(client, run_id, end)
        if settings.as_json:
            print_value(run)
        else:
            error = (run.get("error") or {}).get("message")
            state = status_text(run["status"]) if run["settled"] else f"is still {run['status']}"
            say(run["id"], state, clean(error) if error else None)
        if not run["settled"] or run["status"] in FAILURES:
            code = 1
    return code


def _wait_for_one(client: Client, run_id: str, end: float | None) -> Object:
    patience = Patience()
    run_id = find_run(client, run_id)

    def ask() -> Object:
        left_s = WAIT_CALL_S if end is None else min(WAIT_CALL_S, max(0.0, end - time.monotonic()))
        return client.get("v1", "runs", run_id, "wait", timeout=f"{left_s:g}", timeout_s=left_s + 30.0).object()

    while True:
        run = patience.keep_trying(ask)
        if run["settled"] or (end is not None and time.monotonic() >= end):
            return run


@runs.command
@click.argument("run_id", type=RUN, nargs=-1)
@_filter_options
@common_options
def watch(settings: Settings, /, run_id: tuple[str, ...], **query: Any) -> int:
    """Follow the newest runs, or each RUN_ID until all have settled (exit codes as for `wait`)."""
    from bridge.cli.watch import watch_runs

    if run_id and any(query.values()):
        raise click.UsageError("give either RUN_ID or options that select runs")
    client = settings.client()
    run_ids = [find_run(client, each) for each in run_id]
    return watch_runs(client, run_ids, as_json=settings.as_json, **_query(**query))


@runs.command
@click.argument("run_id", type=RUN, nargs=-1, required=True)
@common_options
def poll(settings: Settings, run_id: tuple[str, ...]) -> None:
    """Poll RUN_ID now, ahead of its schedule."""
    _post_each(settings, run_id, "poll", "will be polled now;")


@runs.command
@click.argument("run_id", type=RUN, nargs=-1, required=True)
@common_options
def cancel(settings: Settings, run_id: tuple[str, ...]) -> None:
    """Ask the provider to cancel RUN_ID, if it can; the run is watched until the provider confirms it."""
    _post_each(settings, run_id, "cancel", "will be cancelled by the provider;")


def _post_each(settings: Settings, run_ids: tuple[str, ...], operation: str, result: str) -> None:
    client = settings.client()
    for run_id in run_ids:
        response = client.post("v1", "runs", find_run(client, run_id), operation)
        if settings.as_json:
            print_json(response.body)
        else:
            say(run_id, result, "now", status_text(response.object().get("status", "unknown")))


@runs.command
@click.argument("run_id", type=RUN, nargs=-1, required=True)
@common_options
def rm(settings: Settings, run_id: tuple[str, ...]) -> None:
    """Stop watching RUN_ID. No event is sent, and the run continues at the provider."""
    client = settings.client()
    for each in run_id:
        client.delete("v1", "runs", find_run(client, each))
        if not settings.as_json:
            say(each, "is no longer watched")
