"""`runbridge deliveries …`: what was sent to each endpoint, with every attempt; retry one."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from bridge.cli.client import Client, Object
from bridge.cli.options import ENDPOINT, RUN, InstantText, Settings, combined, common_options, paging_options
from bridge.cli.output import (
    ago,
    clean,
    count,
    due,
    mark,
    note,
    print_facts,
    print_json,
    print_page,
    print_result,
    print_value,
    say,
    say_heading,
    status_text,
)
from bridge.domain.delivery import DeliveryState, remedy_for


@click.group
def deliveries() -> None:
    """Show and retry deliveries, with every attempt."""


_filter_options = combined(
    click.option("--endpoint", metavar="ID", type=ENDPOINT, help="Only deliveries to this endpoint."),
    click.option("--event", metavar="ID", help="Only deliveries of this event."),
    click.option("--run", metavar="ID", type=RUN, help="Only deliveries of events of this run."),
    click.option(
        "--state", type=click.Choice([state.value for state in DeliveryState]), help="Only those in this state."
    ),
    click.option("--since", type=InstantText(), help="Only deliveries created since: 2h (ago) or an instant."),
    click.option("--until", type=InstantText(), help="Only deliveries created until: 2h (ago) or an instant."),
)


@deliveries.command("list")
@_filter_options
@paging_options("Deliveries")
@common_options
def list_deliveries(settings: Settings, /, **query: Any) -> None:
    """List deliveries, newest first, with what to do about those that failed."""
    response = settings.client().get("v1", "deliveries", **query)
    print_page(
        response,
        ("DELIVERY", "AT", "EVENT", "TYPE", "RUN", "ENDPOINT", "STATE", "ATTEMPTS", "LAST", "NEXT"),
        _row,
        as_json=settings.as_json,
        keep=("DELIVERY", "STATE", "ENDPOINT", "LAST", "AT", "NEXT", "TYPE", "RUN", "ATTEMPTS", "EVENT"),
    )
    if not settings.as_json:
        _print_advice(response.rows())


def _print_advice(deliveries: list[Object]) -> None:
    """Say on standard error what to do, once for each endpoint and kind of failure."""
    troubled: dict[tuple[str, str, str], list[Object]] = {}
    for each in deliveries:
        remedy = remedy_for(each.get("last_outcome"), each.get("last_status"))
        if remedy and each["state"] in ("pending", "exhausted"):
            troubled.setdefault((each["endpoint_id"], each["last_outcome"], remedy), []).append(each)
    for (endpoint, outcome, remedy), these in troubled.items():
        said = f"{endpoint}: {count(len(these), 'delivery', 'deliveries')} with {outcome}: {remedy}"
        if any(each["state"] == "exhausted" for each in these):
            said += f"; then `runbridge endpoints replay {endpoint}` sends what is exhausted"
        else:
            said += f"; they go on by themselves, `runbridge deliveries retry {these[0]['id']}` sends one now"
        note(said)


def _row(delivery: Object) -> tuple[Any, ...]:
    return (
        delivery["id"],
        ago(delivery.get("created_at")),
        delivery.get("event_id"),
        delivery.get("event_type"),
        delivery.get("run_id"),
        delivery.get("endpoint_id"),
        status_text(delivery.get("state")),
        delivery.get("attempt_count"),
        delivery.get("last_status") or delivery.get("last_outcome"),
        due(delivery.get("next_attempt_at")),
    )


@deliveries.command
@click.argument("delivery_id")
@common_options
def show(settings: Settings, delivery_id: str) -> None:
    """Show DELIVERY_ID with every attempt and the receiver's response."""
    print_result(settings.client().get("v1", "deliveries", delivery_id), _print_delivery, as_json=settings.as_json)


def _print_delivery(delivery: Object) -> None:
    say(delivery["id"], status_text(delivery.get("state")))
    print_facts(
        [
            ("event", f"{delivery.get('event_id')} ({delivery.get('event_type')})"),
            ("endpoint", delivery.get("endpoint_id")),
            ("run", delivery.get("run_id")),
            ("created", delivery.get("created_at")),
            ("next attempt", due(delivery.get("next_attempt_at"))),
            ("what to do", remedy_for(delivery.get("last_outcome"), delivery.get("last_status"))),
        ]
    )
    for attempt in delivery.get("attempts") or []:
        _print_attempt(attempt)


def _print_attempt(attempt: Object) -> None:
    say_heading(f"#{attempt['number']}")
    say(
        " ",
        attempt.get("at"),
        mark(attempt.get("outcome") == "delivered"),
        attempt.get("status") or attempt.get("outcome"),
        f"in {attempt.get('duration_ms')} ms",
        "by hand" if attempt.get("manual") else None,
    )
    phases = attempt.get("phases") or {}
    next_at = attempt.get("next_attempt_at")
    print_facts(
        [
            ("  outcome", attempt.get("outcome")),
            ("  detail", attempt.get("detail")),
            ("  peer", attempt.get("peer")),
            ("  phases", ", ".join(f"{name} {spent} ms" for name, spent in phases.items())),
            ("  next", f"{next_at} ({ago(next_at)})" if next_at else None),
        ]
    )
    for line in str(attempt.get("response") or "").splitlines():
        say(Text("  │ " + clean(line), style="dim"))
    if attempt.get("truncated"):
        say(Text("  │ … (the response was longer)", style="dim"))


@deliveries.command
@click.argument("delivery_id", nargs=-1)
@_filter_options
@click.option("--dry-run", is_flag=True, help="Only count the deliveries.")
@common_options
def retry(settings: Settings, /, delivery_id: tuple[str, ...], dry_run: bool, **query: Any) -> None:
    """Send DELIVERY_ID again now, or all deliveries that the options select."""
    client = settings.client()
    wanted = {name: value for name, value in query.items() if value is not None}
    if bool(delivery_id) == bool(wanted):
        raise click.UsageError("give either DELIVERY_ID or options that select deliveries")
    if wanted:
        _retry_selected(client, wanted, dry_run=dry_run, as_json=settings.as_json)
        return
    for each in delivery_id:
        response = client.post("v1", "deliveries", each, "retry")
        if settings.as_json:
            print_json(response.body)
        else:
            say(each, "is tried again now")


def _retry_selected(client: Client, wanted: Object, *, dry_run: bool, as_json: bool) -> None:
    """Retry the selected deliveries in batches; with `dry_run`, only count them."""
    if dry_run:
        response = client.post("v1", "deliveries", "retry", body={**wanted, "dry_run": True})
        print_result(response, _print_count, as_json=as_json)
        return
    done = {"count": 0, "skipped": 0}
    cursor: str | None = ""
    while cursor is not None:
        part = client.post("v1", "deliveries", "retry", body={**wanted, "cursor": cursor}).object()
        done = {name: number + part[name] for name, number in done.items()}
        cursor = part["next_cursor"]
    if as_json:
        print_value(done)
        return
    say(count(done["count"], "delivery", "deliveries"), "are sent again" if done["count"] != 1 else "is sent again")
    if done["skipped"]:
        note(f"{done['skipped']} were left alone: they are being sent, or their endpoint is off or was removed")


def _print_count(total: Object) -> None:
    number = count(total["count"], "delivery", "deliveries")
    say("" if total["is_exact"] else "more than", number, "to be sent again")
