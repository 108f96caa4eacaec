"""One connection for a person: how it stands, what it may ask, and what was learned of its workflows."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.cli.client import Object
from bridge.cli.output import Cell, ago, console, count, print_facts, print_table, say, say_heading, status_text
from bridge.cli.plot import draw
from bridge.domain.suggestions import closest

PLOT_COLUMNS_MIN, PLOT_COLUMNS_MAX = 40, 80
OVER_CAPACITY_MIN = 1.05  # less would be shown as ×1.0


def print_connection(connection: Object) -> None:
    """All but the distributions."""
    say(connection["name"], status_text(connection["health"]), connection["reason"])
    print_facts(_facts(connection, connection["state"]))
    learned = connection["state"]["learned"]
    if not learned:
        say("no run has been watched yet, so nothing was learned")
        return
    say_heading("workflows")
    columns = ("  WORKFLOW", "RUNS", "MEDIAN", "P90", "P99", "POLLS PER RUN", "MEAN DELAY")
    print_table(columns, (_row(workflow) for workflow in learned))


def print_distribution(connection: Object) -> None:
    """How long the runs of one workflow take, with the polls that are planned on it."""
    learned = connection["distribution"]
    runs = round(learned["runs_remembered"])
    whose = f"runs of {learned['workflow_id']}" if learned["workflow_id"] else "runs without a workflow"
    if runs:
        say(f"how long {whose} take at {connection['name']}, learned from {count(runs, 'run')}:")
    else:
        say(f"no {whose} have ended yet at {connection['name']}; so far this is assumed:", _meant(connection))
    for line in draw(learned, min(max(console().width, PLOT_COLUMNS_MIN), PLOT_COLUMNS_MAX)):
        say(line)
    polls, late = learned["expected_polls"], _shown(learned["expected_delay_s"])
    say(f"▲ polls while a run goes on: {polls:.1f} polls per run expected, {late} late on average")
    say(f"half are done in {_shown(learned['median_s'])}, 90 % in {_shown(learned['p90_s'])}")
    crowded = _over_capacity(connection["state"])
    if crowded:
        say(f"but this account is {crowded}: polls come later")


def _meant(connection: Object) -> str | None:
    given = connection["distribution"]["workflow_id"]
    known = [workflow["workflow_id"] for workflow in connection["state"]["learned"] if workflow["workflow_id"]]
    near = closest(given, known) if given and given not in known else None
    return f"(did you mean {near}?)" if near else None


def _facts(connection: Object, state: Object) -> Iterator[tuple[str, Cell]]:
    limits, cadence = connection["limits"], connection["cadence"]
    yield "provider", f"{connection['provider']} at {connection['base_url']}"
    yield "since", f"{connection['since']}  ({ago(connection['since'])})" if connection["since"] else None
    yield "requests", f"at most {state['requests_per_second']:g} a second{_origin(limits['requests_per_second'])}"
    in_flight = f"{state['in_flight']}, at most {state['max_in_flight']}"
    yield "in flight", in_flight + _origin(limits["max_in_flight"])
    nodes, paused_s = state["limits_shared_by_nodes"], state["paused_for_s"]
    yield "shared", f"limits divided among {nodes} nodes" if nodes > 1 else None
    is_paused = paused_s * state["requests_per_second"] > 1  # less is the gap between any two requests
    yield "paused", f"for {_shown(paused_s)}" if is_paused else None
    yield "capacity", _over_capacity(state)
    yield "runs in hand", state["runs_in_hand"]
    yield "cadence", ", ".join(f"{key} {value}" for key, value in cadence.items() if value is not None)


def _origin(limit: float | None) -> str:
    return ", learned" if limit is None else ", as configured"


def _over_capacity(state: Object) -> str | None:
    if state["over_capacity_by"] < OVER_CAPACITY_MIN:
        return None
    return f"lately over capacity by ×{state['over_capacity_by']:.1f} (shadow price {_shown(state['shadow_price_s'])})"


def _row(workflow: Object) -> tuple[Cell, ...]:
    polls, delay_s = workflow["polls_per_run"], workflow["mean_delay_s"]
    return (
        f"  {workflow['workflow_id'] or '–'}",
        round(workflow["runs_remembered"]),
        *(_shown(workflow[name]) for name in ("median_s", "p90_s", "p99_s")),
        "–" if polls is None else f"{polls:.1f}",
        "–" if delay_s is None else _shown(delay_s),
    )


def _shown(seconds: float) -> str:
    """A duration to three digits: `249ms`, `31.2s`, `2.5m`."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds:.3g}s" if seconds >= 1 else f"{seconds * 1000:.3g}ms"
