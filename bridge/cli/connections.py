"""`runbridge connections …`: accounts at providers: health, limits, learned durations."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bridge.cli.client import Client, Object
from bridge.cli.options import CONNECTION, Settings, common_options
from bridge.cli.output import (
    Cell,
    ago,
    console,
    count,
    last_error_text,
    mark,
    print_facts,
    print_json,
    print_page,
    print_table,
    print_value,
    say,
    say_heading,
    status_text,
)
from bridge.cli.plot import draw
from bridge.domain.finding import IS_GOOD
from bridge.domain.suggestions import closest

CHECK_TIMEOUT_S = 60.0  # above the daemon's own deadline for the provider
PLOT_COLUMNS_MIN, PLOT_COLUMNS_MAX = 40, 80
OVER_CAPACITY_MIN = 1.05  # less would be shown as ×1.0


@click.group
def connections() -> None:
    """Accounts at providers, and whether they answer."""


@connections.command("list")
@common_options
def list_connections(settings: Settings) -> None:
    """List the configured connections with their health and their limits, and the reason for each."""
    print_page(
        settings.client().get("v1", "connections"),
        ("CONNECTION", "PROVIDER", "BASE URL", "HEALTH", "SINCE", "WHY", "LIMIT", "LIMIT IS"),
        lambda connection: (
            connection["name"],
            connection.get("provider"),
            connection.get("base_url"),
            status_text(connection["health"]),
            connection.get("since"),
            _health_reason(connection),
            f"{connection['state']['requests_per_second']:g}/s",
            connection["state"].get("limit_reason"),
        ),
        as_json=settings.as_json,
        keep=("CONNECTION", "HEALTH", "LIMIT", "WHY", "PROVIDER", "LIMIT IS", "SINCE", "BASE URL"),
    )


@connections.command
@click.argument("name", type=CONNECTION)
@click.option(
    "--workflow", metavar="ID", help='Plot the durations of its runs and its polls; "" for runs without a workflow.'
)
@common_options
def show(settings: Settings, name: str, workflow: str | None) -> None:
    """Show the health and limits of NAME, and the durations learned for each of its workflows."""
    response = settings.client().get("v1", "connections", name, workflow=workflow)
    if settings.as_json:
        print_json(response.body)
    elif workflow is None:
        _print_connection(response.object())
    else:
        _print_distribution(response.object())


@connections.command
@click.argument("name", type=CONNECTION, nargs=-1)
@common_options
def check(settings: Settings, name: tuple[str, ...]) -> int:
    """Prove the key of each NAME (default: all) by a real request; exit 1 if one is not proven.

    ✗: the request failed. !: it was answered, but a wrong key was not refused; a server may need none.
    """
    client = settings.client()
    names = list(name) or [connection["name"] for connection in client.get("v1", "connections").rows()]
    if not names:
        say("no connection is configured; add one to the configuration file under [connections.NAME]")
    results = check_connections(client, names)
    for each, result in results.items():
        if settings.as_json:
            print_value({"connection": each, **result})
        else:
            say_check(each, result)
    return 0 if all(result["ok"] for result in results.values()) else 1


def check_connections(client: Client, names: list[str]) -> dict[str, Object]:
    """Have the daemon check each connection; results in the order of `names`."""
    return {name: client.post("v1", "connections", name, "check", timeout_s=CHECK_TIMEOUT_S).object() for name in names}


def say_check(name: str, result: Object) -> None:
    """Print the outcome of the check of connection `name`."""
    say(mark(IS_GOOD[result["result"]]), name, result.get("detail"), f"({result.get('duration_ms')} ms)")


def _print_connection(connection: Object) -> None:
    say(connection["name"], status_text(connection["health"]), _health_reason(connection))
    print_facts(_facts(connection, connection["state"]))
    learned = connection["state"]["learned"]
    if not learned:
        say("no run has ended yet, so nothing was learned about durations")
        return
    say_heading("workflows")
    columns = ("  WORKFLOW", "RUNS", "MEDIAN", "P90", "P99", "POLLS PER RUN", "MEAN DELAY")
    keep = ("  WORKFLOW", "RUNS", "MEDIAN", "P90", "MEAN DELAY", "POLLS PER RUN", "P99")
    print_table(columns, map(_workflow_row, learned), keep=keep)


def _print_distribution(connection: Object) -> None:
    """Plot the learned durations of one workflow, with the polls planned from them."""
    learned = connection["distribution"]
    runs = round(learned["runs_remembered"])
    which = f"runs of {learned['workflow_id']}" if learned["workflow_id"] else "runs without a workflow"
    if runs:
        say(f"how long {which} take at {connection['name']}, learned from {count(runs, 'run')}:")
    else:
        say(f"no {which} have ended yet at {connection['name']}; so far this is assumed:", _suggestion(connection))
    for line in draw(learned, min(max(console().width, PLOT_COLUMNS_MIN), PLOT_COLUMNS_MAX)):
        say(line)
    polls, delay = learned["expected_polls"], _shown(learned["expected_delay_s"])
    say(f"▲ polls of a run: {polls:.1f} polls per run expected, {delay} mean delay")
    say(f"half are done in {_shown(learned['median_s'])}, 90 % in {_shown(learned['p90_s'])}")
    if over := _over_capacity(connection["state"]):
        say(f"this account is {over}: polls come later")


def _suggestion(connection: Object) -> str | None:
    given = connection["distribution"]["workflow_id"]
    known = [workflow["workflow_id"] for workflow in connection["state"]["learned"] if workflow["workflow_id"]]
    near = closest(given, known) if given and given not in known else None
    return f"(did you mean {near}?)" if near else None


def _health_reason(connection: Object) -> str | None:
    is_unknown = connection["health"] == "unknown"
    return "(no poll has been answered yet)" if is_unknown else connection.get("reason")


def _facts(connection: Object, state: Object) -> Iterator[tuple[str, Cell]]:
    limits, cadence = connection["limits"], connection["cadence"]
    yield "provider", f"{connection['provider']} at {connection['base_url']}"
    yield "since", f"{connection['since']}  ({ago(connection['since'])})" if connection["since"] else None
    yield "last error", last_error_text(connection)
    if checked := connection.get("last_check"):
        yield "key", f"{mark(IS_GOOD[checked['result']])} {checked['detail']} ({ago(checked['at'])})"
    if definition := connection.get("definition"):
        yield "definition", f"{definition['name']} {definition['version']}, {definition['origin']}"
    for remark in connection.get("remarks") or ():
        yield "unread", f"{remark['message']} ({remark['count']} times, last {ago(remark['at'])})"
    yield "requests", f"at most {state['requests_per_second']:g} a second{_origin(limits['requests_per_second'])}"
    yield "why", state.get("limit_reason")
    in_flight = f"{state['in_flight']}, at most {state['max_in_flight']}"
    yield "in flight", in_flight + _origin(limits["max_in_flight"])
    nodes, paused_s = state["limits_shared_by_nodes"], state["paused_for_s"]
    yield "shared", f"limits divided among {nodes} nodes" if nodes > 1 else None
    is_paused = paused_s * state["requests_per_second"] > 1  # otherwise the usual gap between two requests
    yield "paused", f"for {_shown(paused_s)}" if is_paused else None
    yield "capacity", _over_capacity(state)
    yield "last list", ago(connection["last_list_at"]) if connection.get("last_list_at") else None
    yield "runs watched", state["runs_in_hand"]
    yield "cadence", ", ".join(f"{key} {value}" for key, value in cadence.items() if value is not None)


def _origin(limit: float | None) -> str:
    return ", learned" if limit is None else ", as configured"


def _over_capacity(state: Object) -> str | None:
    if state["over_capacity_by"] < OVER_CAPACITY_MIN:
        return None
    return f"lately over capacity by ×{state['over_capacity_by']:.1f} (shadow price {_shown(state['shadow_price_s'])})"


def _workflow_row(workflow: Object) -> tuple[Cell, ...]:
    polls, delay_s = workflow["polls_per_run"], workflow["mean_delay_s"]
    return (
        f"  {workflow['workflow_id'] or '–'}",
        round(workflow["runs_remembered"]),
        *(_shown(workflow[name]) for name in ("median_s", "p90_s", "p99_s")),
        "–" if polls is None else f"{polls:.1f}",
        "–" if delay_s is None else _shown(delay_s),
    )


def _shown(seconds: float) -> str:
    """A duration to three significant digits: `249ms`, `31.2s`, `2.5m`."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds:.3g}s" if seconds >= 1 else f"{seconds * 1000:.3g}ms"
