"""`runbridge endpoints …`: who is told, of what, and with which secret."""

from __future__ import annotations

import time
from typing import Any

import click

from bridge.cli.client import Client, Object
from bridge.cli.options import DurationText, EventTypes, Moment, Pair, Settings, common_options, pass_settings
from bridge.cli.output import count, mark, print_facts, print_json, print_table, print_value, say, status_text
from bridge.cli.replays import start_replay
from bridge.domain.endpoint import FORMATS, PAYLOADS, RATE_LIMIT_MAX, RATE_LIMIT_MIN, SIGNATURES
from bridge.domain.replay import RATE_DEFAULT, RATE_MAX, RATE_MIN, ReplayStatus
from bridge.domain.timestamps import format_duration

PING_WAIT_S = 20.0  # a little more than one attempt may take
_SELECTIONS = [status.value for status in ReplayStatus]


@click.group
def command() -> None:
    """Who is told: subscribers and their secrets."""


@command.command
@click.argument("url")
@click.option("--events", metavar="A,B", type=EventTypes(), help="What it hears; else all but run.progressed.")
@click.option("--filter", "filter_", metavar="JMESPATH", help="For example: data.run.status == 'failed'")
@click.option("--header", metavar="NAME:VALUE", type=Pair(":"), multiple=True, help="Sent along with every POST.")
@click.option("--ordered", is_flag=True, help="The events of one run strictly one after the other.")
@click.option("--payload", type=click.Choice(PAYLOADS), help="thin: ids and status, without output.")
@click.option("--format", type=click.Choice(FORMATS), help="How the body is laid out.")
@click.option(
    "--rate-limit", metavar="N", type=click.FloatRange(RATE_LIMIT_MIN, RATE_LIMIT_MAX), help="At most N a second."
)
@click.option("--v1a", "is_v1a", is_flag=True, help="Sign with an ed25519 key beside the secret.")
@click.option("--description", metavar="TEXT")
@click.option("--secret-file", metavar="FILE", type=click.File(), help="Your own whsec_… secret; else one is made.")
@common_options
@pass_settings
def add(
    settings: Settings,
    /,
    url: str,
    filter_: str | None,
    header: tuple[tuple[str, str], ...],
    secret_file: Any,
    is_v1a: bool,
    **given: Any,
) -> None:
    """Tell URL of events from now on. Prints the signing secret, this once."""
    body = {
        **given,
        "url": url,
        "signature": list(SIGNATURES) if is_v1a else None,
        "filter": filter_,
        "headers": dict(header),
        "secret": secret_file.read().strip() if secret_file else None,
    }
    answer = settings.client().post("v1", "endpoints", body={key: value for key, value in body.items() if value})
    if settings.as_json:
        print_json(answer.body)
        return
    made = answer.object()
    say(made["id"], "will be told at", made["url"])
    say("signing secret (shown this once):", made["secret"])
    for key in made.get("public_keys") or []:
        say("public key of its v1a signatures:", key)


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", help="Where the list before this one ended.")
@common_options
@pass_settings
def list_endpoints(settings: Settings, /, **query: Any) -> None:
    """All endpoints, those from the configuration file included."""
    from bridge.cli.runs import tell_more

    answer = settings.client().get("v1", "endpoints", **query)
    if settings.as_json:
        print_json(answer.body)
        return
    print_table(
        ("ENDPOINT", "URL", "EVENTS", "STATE", "FROM"),
        ((e["id"], e["url"], _events(e), _state(e), e.get("source")) for e in answer.rows()),
    )
    tell_more(answer.object())


@command.command
@click.argument("endpoint_id")
@common_options
@pass_settings
def show(settings: Settings, endpoint_id: str) -> None:
    """One endpoint (never its secret)."""
    answer = settings.client().get("v1", "endpoints", endpoint_id)
    if settings.as_json:
        print_json(answer.body)
    else:
        _print_endpoint(answer.object())


@command.command
@click.argument("endpoint_id")
@click.option("--no-wait", is_flag=True, help="Do not stay to see what came of it.")
@common_options
@pass_settings
def ping(settings: Settings, endpoint_id: str, no_wait: bool) -> int:
    """Send it a bridge.ping and say what it answered; exit 1 unless it took it."""
    return ping_endpoint(settings, endpoint_id, is_waiting=not no_wait)


def ping_endpoint(settings: Settings, endpoint_id: str, *, is_waiting: bool) -> int:
    """Ping and, where wanted, wait for the first attempt; 1 if that failed or did not happen in time."""
    client = settings.client()
    answer = client.post("v1", "endpoints", endpoint_id, "ping")
    if settings.as_json and not is_waiting:
        print_json(answer.body)
        return 0
    event_id = answer.object()["event_id"]
    delivery = _first_attempt(client, event_id) if is_waiting else {}
    if settings.as_json:
        print_value({"event_id": event_id, "delivery": delivery})
    elif not is_waiting:
        say(event_id, "is on its way to", endpoint_id)
    else:
        _print_ping(event_id, delivery)
    return 1 if is_waiting and (delivery or {}).get("state") != "delivered" else 0


def _first_attempt(client: Client, event_id: str) -> Object | None:
    """The ping's delivery once it was tried; None if it was not within PING_WAIT_S."""
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
    how = last.get("status") or last.get("outcome")
    say(mark(delivery["state"] == "delivered"), event_id, how, took, last.get("detail"))


@command.command("rotate-secret")
@click.argument("endpoint_id")
@click.option("--overlap", type=DurationText(), help="How long the old secret signs along (0s to 7d; else 24h).")
@click.option("--secret-file", metavar="FILE", type=click.File(), help="Your own new secret; else one is made.")
@click.option("--v1a", "is_v1a", is_flag=True, help="A new ed25519 key instead of a new secret.")
@common_options
@pass_settings
def rotate_secret(settings: Settings, endpoint_id: str, overlap: float | None, secret_file: Any, is_v1a: bool) -> None:
    """Give it a new signing secret. Prints it, this once; the old one signs along for a while."""
    body: Object = {} if overlap is None else {"overlap": format_duration(overlap) if overlap else "0s"}
    if is_v1a:
        body["signature"] = "v1a"
    if secret_file:
        body["secret"] = secret_file.read().strip()
    answer = settings.client().post("v1", "endpoints", endpoint_id, "rotate-secret", body=body)
    if settings.as_json:
        print_json(answer.body)
    elif is_v1a:
        say("new public key of its v1a signatures:", answer.object()["public_key"])
    else:
        say("new signing secret (shown this once):", answer.object()["secret"])


@command.command
@click.argument("endpoint_id")
@click.option("--replay-missed", is_flag=True, help="And send what it missed since it was added.")
@click.option("--wait", "is_waiting", is_flag=True, help="With --replay-missed: stay until all of it is on its way.")
@common_options
@pass_settings
def enable(settings: Settings, endpoint_id: str, replay_missed: bool, is_waiting: bool) -> int:
    """Send to it again: at once what was due when it was switched off, but nothing that was recorded since."""
    if not replay_missed:
        endpoint = _switch(settings, endpoint_id, "enable")
        if not settings.as_json:
            _tell_missed(settings.client(), endpoint)
        return 0
    settings.client().post("v1", "endpoints", endpoint_id, "enable")
    return start_replay(settings, endpoint_id, {"status": "missed"}, is_waiting=is_waiting)


@command.command
@click.argument("endpoint_id")
@common_options
@pass_settings
def disable(settings: Settings, endpoint_id: str) -> None:
    """Send it nothing until it is enabled again; what is due is kept, what is recorded meanwhile is not queued."""
    _switch(settings, endpoint_id, "disable")


def _switch(settings: Settings, endpoint_id: str, operation: str) -> Object:
    answer = settings.client().post("v1", "endpoints", endpoint_id, operation)
    if settings.as_json:
        print_json(answer.body)
    else:
        say(endpoint_id, "is now", _state(answer.object()))
    return answer.object()


def _tell_missed(client: Client, endpoint: Object) -> None:
    selection = {"since": endpoint["created_at"], "status": "missed", "dry_run": True}
    answer = client.post("v1", "endpoints", endpoint["id"], "replay", body=selection, timeout_s=300.0)
    if missed := answer.object()["count"]:
        command = f"runbridge endpoints replay {endpoint['id']} --status missed"
        say(f"it missed {count(missed, 'event')}, which `{command}` sends")


@command.command
@click.argument("endpoint_id", nargs=-1, required=True)
@common_options
@pass_settings
def rm(settings: Settings, endpoint_id: tuple[str, ...]) -> None:
    """Remove it; what it was still to get is discarded."""
    client = settings.client()
    for each in endpoint_id:
        client.delete("v1", "endpoints", each)
        if not settings.as_json:
            say(each, "is removed")


@command.command
@click.argument("endpoint_id")
@click.option("--since", type=Moment(), help="From when on: 2h (ago) or an instant; else since it was added.")
@click.option("--until", type=Moment(), help="Up to when; else now.")
@click.option("--types", metavar="A,B", type=EventTypes(), help="Only these events.")
@click.option("--status", type=click.Choice(_SELECTIONS), help="Only what came to this there; missed: never arrived.")
@click.option("--rate", type=click.FloatRange(RATE_MIN, RATE_MAX), help=f"Events a second (else {RATE_DEFAULT:g}).")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--wait", "is_waiting", is_flag=True, help="Stay until all of it is on its way, with a progress bar.")
@common_options
@pass_settings
def replay(settings: Settings, /, endpoint_id: str, is_waiting: bool, **selection: Any) -> int:
    """Send it again what it should have had: same ids, same bytes."""
    given = {key: value for key, value in selection.items() if value}
    if "since" not in given and given.get("status") != "missed":
        raise click.UsageError("give --since, or --status missed for everything missed since it was added")
    return start_replay(settings, endpoint_id, given, is_waiting=is_waiting)


def _events(endpoint: Object) -> str:
    events = endpoint.get("events")
    return ", ".join(events) if events else "all but run.progressed"


def _state(endpoint: Object) -> Any:
    return status_text("enabled" if endpoint.get("enabled", True) else "disabled")


def _print_endpoint(endpoint: Object) -> None:
    headers = endpoint.get("headers") or {}
    shown = [f"{name}: {value}" for name, value in headers.items()]
    say(endpoint["id"], _state(endpoint), endpoint.get("disabled_reason"))
    print_facts(
        [
            ("url", endpoint["url"]),
            ("events", _events(endpoint)),
            ("filter", endpoint.get("filter")),
            ("headers", ", ".join(shown)),
            ("ordered", "yes" if endpoint.get("ordered") else None),
            ("payload", endpoint.get("payload")),
            ("format", endpoint.get("format")),
            ("rate limit", f"{endpoint['rate_limit']:g} a second" if endpoint.get("rate_limit") else None),
            ("signature", ", ".join(endpoint.get("signature") or [])),
            ("public keys", ", ".join(endpoint.get("public_keys") or [])),
            ("failing since", endpoint.get("failing_since")),
            ("paused until", endpoint.get("paused_until")),
            ("description", endpoint.get("description")),
            ("from", endpoint.get("source")),
            ("run", endpoint.get("run_id")),
            ("created", endpoint.get("created_at")),
        ]
    )
