"""`runbridge endpoints …`: subscribers, their filters, secrets, pings and replays."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.text import Text

from bridge.cli.client import Client, Object
from bridge.cli.endpoint_report import enabled_text, event_names, health_text, print_endpoint, stats_cells
from bridge.cli.options import (
    ENDPOINT,
    EVENT_TYPES,
    DurationText,
    InstantText,
    Pair,
    Settings,
    combined,
    common_options,
    paging_options,
)
from bridge.cli.output import (
    ago,
    clean,
    count,
    mark,
    print_json,
    print_page,
    print_result,
    print_table,
    print_value,
    say,
)
from bridge.cli.replays import start_replay
from bridge.domain.fields import FORMATS, PAYLOADS, RATE_LIMIT_MAX, RATE_LIMIT_MIN, SIGNATURES
from bridge.domain.replay import RATE_DEFAULT, RATE_MAX, RATE_MIN, ReplayStatus
from bridge.domain.timestamps import format_duration

PING_WAIT_S = 20.0  # longer than one attempt may take
_SELECTIONS = [status.value for status in ReplayStatus]
_UNSET: dict[str, object] = {"events": None, "filter": None, "headers": {}, "rate-limit": None, "description": None}
_COLUMNS = ("ENDPOINT", "HEALTH", "SUCCESS", "P95", "LAST", "DUE", "PENDING")


@click.group
def endpoints() -> None:
    """Subscribers, their filters and their secrets."""


_setting_options = combined(
    click.option("--events", metavar="A,B", type=EVENT_TYPES, help="Its events; default: all but run.progressed."),
    click.option("--filter", metavar="JMESPATH", help="For example: data.run.status == 'failed'"),
    click.option(
        "--header",
        "headers",
        metavar="NAME:VALUE",
        type=Pair(":"),
        multiple=True,
        help="A header of every POST.",
    ),
    click.option("--ordered/--no-ordered", default=None, help="Send the events of one run in order, one at a time."),
    click.option("--payload", type=click.Choice(PAYLOADS), help="thin: ids and status, without output."),
    click.option("--format", type=click.Choice(FORMATS), help="The layout of the body."),
    click.option(
        "--rate-limit",
        metavar="N",
        type=click.FloatRange(RATE_LIMIT_MIN, RATE_LIMIT_MAX),
        help="At most N POSTs a second.",
    ),
    click.option("--v1a/--no-v1a", default=None, help="Sign with an ed25519 key in addition to the secret."),
    click.option(
        "--trace-context/--no-trace-context",
        default=None,
        help="Pass on the trace that a run was registered in.",
    ),
    click.option("--description", metavar="TEXT", help="A note for people."),
)


def _given_settings(*, v1a: bool | None, headers: tuple[tuple[str, str], ...], **options: Any) -> Object:
    """The settings that were given, as the API takes them."""
    settings = {name: value for name, value in options.items() if value not in (None, "")}
    if headers:
        settings["headers"] = dict(headers)
    if v1a is not None:
        settings["signature"] = list(SIGNATURES if v1a else SIGNATURES[:1])
    return settings


@endpoints.command
@click.argument("url")
@_setting_options
@click.option("--secret-file", metavar="FILE", type=click.File(), help="Your own whsec_… secret; default: a new one.")
@common_options
def add(settings: Settings, /, url: str, secret_file: Any, **options: Any) -> None:
    """Send events to URL from now on. Prints the signing secret, which is shown only once."""
    body = {"url": url, **_given_settings(**options)}
    if secret_file:
        body["secret"] = secret_file.read().strip()
    response = settings.client().post("v1", "endpoints", body=body)
    print_result(response, _print_created, as_json=settings.as_json)


def _print_created(created: Object) -> None:
    say(created["id"], "will receive events at", created["url"])
    say("signing secret (shown only once):", created["secret"])
    for key in created.get("public_keys") or []:
        say("public key of its v1a signatures:", key)


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT)
@click.option("--to", "url", metavar="URL", help="Send to this URL from now on.")
@_setting_options
@click.option("--unset", type=click.Choice(list(_UNSET)), multiple=True, help="Restore the default of this setting.")
@common_options
def update(settings: Settings, /, endpoint_id: str, unset: tuple[str, ...], **options: Any) -> None:
    """Change settings of ENDPOINT_ID; those not given stay as they are. --header replaces all headers."""
    body = _given_settings(**options) | {name.replace("-", "_"): _UNSET[name] for name in unset}
    if not body:
        raise click.UsageError("give at least one setting to change")
    response = settings.client().patch("v1", "endpoints", endpoint_id, body=body)
    print_result(response, print_endpoint, as_json=settings.as_json)


@endpoints.command("test-filter")
@click.argument("expression", metavar="JMESPATH")
@click.option("--events", "types", metavar="A,B", type=EVENT_TYPES, help="Only these types.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Number of events.")
@common_options
def test_filter(settings: Settings, expression: str, types: list[str] | None, limit: int) -> int:
    """Try the filter JMESPATH on the newest events; exit 1 if it fails on one of them."""
    body: Object = {"filter": expression, "limit": limit} | ({"types": types} if types else {})
    response = settings.client().post("v1", "endpoints", "test-filter", body=body)
    result = response.object()
    if settings.as_json:
        print_json(response.body)
    elif not result["data"]:
        say("no event has been recorded yet" + (" of these types" if types else ""))
    else:
        print_table(
            ("PASSES", "EVENT", "TYPE", "RUN", "AT"),
            (
                (
                    mark(None if item["error"] else item["matches"])
                    + Text(f" {clean(item['error'])}" if item["error"] else ""),
                    item["event_id"],
                    item["type"],
                    item["run_id"],
                    ago(item["created_at"]),
                )
                for item in result["data"]
            ),
            keep=("PASSES", "EVENT", "TYPE", "AT", "RUN"),
        )
        failed = f"; it fails on {result['failed']}" if result["failed"] else ""
        say(f"{result['matched']} of {count(len(result['data']), 'event')} pass{failed}")
    return 1 if result["failed"] else 0


@endpoints.command("list")
@paging_options("Endpoints")
@common_options
def list_endpoints(settings: Settings, /, **query: Any) -> None:
    """List all endpoints, including those of the configuration file."""
    print_page(
        settings.client().get("v1", "endpoints", **query),
        (*_COLUMNS, "URL", "EVENTS", "FROM"),
        lambda endpoint: (
            endpoint["id"],
            health_text(endpoint),
            *stats_cells(endpoint.get("stats") or {}),
            endpoint["url"],
            event_names(endpoint),
            endpoint.get("source"),
        ),
        as_json=settings.as_json,
        keep=(*_COLUMNS, "URL", "EVENTS", "FROM"),
    )


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT)
@common_options
def show(settings: Settings, endpoint_id: str) -> None:
    """Show ENDPOINT_ID, without its secret."""
    response = settings.client().get("v1", "endpoints", endpoint_id)
    print_result(response, print_endpoint, as_json=settings.as_json)


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT)
@click.option("--no-wait", is_flag=True, help="Do not wait for the first attempt.")
@common_options
def ping(settings: Settings, endpoint_id: str, no_wait: bool) -> int:
    """Send a bridge.ping to ENDPOINT_ID and print its response; exit 1 unless it accepts the ping."""
    return ping_endpoint(settings, endpoint_id, is_waiting=not no_wait)


def ping_endpoint(settings: Settings, endpoint_id: str, *, is_waiting: bool) -> int:
    """Send a ping; with `is_waiting`, return 1 unless the first attempt succeeds within PING_WAIT_S."""
    client = settings.client()
    response = client.post("v1", "endpoints", endpoint_id, "ping")
    if settings.as_json and not is_waiting:
        print_json(response.body)
        return 0
    event_id = response.object()["event_id"]
    delivery = _first_attempt(client, event_id) if is_waiting else {}
    if settings.as_json:
        print_value({"event_id": event_id, "delivery": delivery})
    elif not is_waiting:
        say(event_id, "is on its way to", endpoint_id)
    else:
        _print_ping(event_id, delivery)
    return 1 if is_waiting and (delivery or {}).get("state") != "delivered" else 0


def _first_attempt(client: Client, event_id: str) -> Object | None:
    """The delivery of the ping after its first attempt; None if there was none within PING_WAIT_S."""
    end = time.monotonic() + PING_WAIT_S
    while time.monotonic() < end:
        for row in client.get("v1", "deliveries", event=event_id).rows():
            if row["attempts"]:
                return row
        time.sleep(0.1)
    return None


def _print_ping(event_id: str, delivery: Object | None) -> None:
    if not delivery:
        say(mark(None), event_id, f"was not tried within {PING_WAIT_S:.0f} s; is the endpoint enabled?")
        return
    last: Object = delivery["attempts"][-1]
    took = f"in {last['duration_ms']} ms" if "duration_ms" in last else None
    result = last.get("status") or last.get("outcome")
    say(mark(delivery["state"] == "delivered"), event_id, result, took, last.get("detail"))


@endpoints.command("rotate-secret")
@click.argument("endpoint_id", type=ENDPOINT)
@click.option("--overlap", type=DurationText(), help="How long the old secret signs too (0s to 7d; default: 24h).")
@click.option("--secret-file", metavar="FILE", type=click.File(), help="Your own new secret; default: a random one.")
@click.option("--v1a", "is_v1a", is_flag=True, help="Replace the ed25519 key instead of the secret.")
@common_options
def rotate_secret(settings: Settings, endpoint_id: str, overlap: float | None, secret_file: Any, is_v1a: bool) -> None:
    """Replace the signing secret of ENDPOINT_ID.

    Prints the new secret, which is shown only once. The old one signs too for a while.
    """
    body: Object = {} if overlap is None else {"overlap": format_duration(overlap) if overlap else "0s"}
    if is_v1a:
        body["signature"] = "v1a"
    if secret_file:
        body["secret"] = secret_file.read().strip()
    response = settings.client().post("v1", "endpoints", endpoint_id, "rotate-secret", body=body)
    what, key = (
        ("public key of its v1a signatures", "public_key") if is_v1a else ("signing secret (shown only once)", "secret")
    )
    print_result(response, lambda rotated: say(f"new {what}:", rotated[key]), as_json=settings.as_json)


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT)
@click.option("--replay-missed", is_flag=True, help="Also replay the events that it missed since it was added.")
@click.option("--wait", "is_waiting", is_flag=True, help="With --replay-missed: wait until all are queued.")
@common_options
def enable(settings: Settings, endpoint_id: str, replay_missed: bool, is_waiting: bool) -> int:
    """Send to ENDPOINT_ID again, beginning with its pending deliveries.

    Events recorded while it was disabled need a replay.
    """
    if not replay_missed:
        endpoint = _switch(settings, endpoint_id, "enable")
        if not settings.as_json:
            _print_missed(settings.client(), endpoint)
        return 0
    settings.client().post("v1", "endpoints", endpoint_id, "enable")
    return start_replay(settings, endpoint_id, {"status": "missed"}, is_waiting=is_waiting)


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT)
@common_options
def disable(settings: Settings, endpoint_id: str) -> None:
    """Send nothing to ENDPOINT_ID until it is enabled. Pending deliveries are kept; new events are not queued."""
    _switch(settings, endpoint_id, "disable")


def _switch(settings: Settings, endpoint_id: str, operation: str) -> Object:
    response = settings.client().post("v1", "endpoints", endpoint_id, operation)
    print_result(response, lambda now: say(endpoint_id, "is now", enabled_text(now)), as_json=settings.as_json)
    return response.object()


def _print_missed(client: Client, endpoint: Object) -> None:
    selection = {"since": endpoint["created_at"], "status": "missed", "dry_run": True}
    response = client.post("v1", "endpoints", endpoint["id"], "replay", body=selection, timeout_s=300.0)
    if missed := response.object()["count"]:
        command = f"runbridge endpoints replay {endpoint['id']} --status missed"
        say(f"it missed {count(missed, 'event')}; `{command}` sends them")


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT, nargs=-1, required=True)
@common_options
def rm(settings: Settings, endpoint_id: tuple[str, ...]) -> None:
    """Remove ENDPOINT_ID and discard its pending deliveries."""
    client = settings.client()
    for each in endpoint_id:
        client.delete("v1", "endpoints", each)
        if not settings.as_json:
            say(each, "is removed")


@endpoints.command
@click.argument("endpoint_id", type=ENDPOINT)
@click.option("--since", type=InstantText(), help="Start: 2h (ago) or an instant; with --status missed optional.")
@click.option("--until", type=InstantText(), help="End: 2h (ago) or an instant; default: now.")
@click.option("--events", "--types", "types", metavar="A,B", type=EVENT_TYPES, help="Only these event types.")
@click.option(
    "--status", type=click.Choice(_SELECTIONS), help="Only events with this outcome here; missed: never delivered."
)
@click.option("--rate", type=click.FloatRange(RATE_MIN, RATE_MAX), help=f"Events a second; default: {RATE_DEFAULT:g}.")
@click.option("--dry-run", is_flag=True, help="Only count the events.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until all are queued, with a progress bar.")
@common_options
def replay(settings: Settings, /, endpoint_id: str, is_waiting: bool, **selection: Any) -> int:
    """Send past events to ENDPOINT_ID again, with the same ids and bytes."""
    given = {key: value for key, value in selection.items() if value}
    if "since" not in given and given.get("status") != "missed":
        raise click.UsageError("give --since, or --status missed for everything missed since it was added")
    return start_replay(settings, endpoint_id, given, is_waiting=is_waiting)
