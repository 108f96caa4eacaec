"""A run as text: its row in lists, and the report of `runs show`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from rich.text import Text

from bridge.cli.client import Object
from bridge.cli.output import (
    Cell,
    ago,
    clean,
    count,
    due,
    instant_of,
    last_error_text,
    print_facts,
    print_table,
    rough,
    say,
    say_heading,
    status_text,
)

FAILURES: Final = frozenset({"failed", "cancelled", "expired", "lost"})
RUN_COLUMNS: Final = ("RUN", "CONNECTION", "PROVIDER RUN", "STATUS", "PROGRESS", "REGISTERED", "NEXT POLL")
RUN_COLUMNS_KEPT: Final = ("RUN", "STATUS", "PROVIDER RUN", "PROGRESS", "CONNECTION", "NEXT POLL", "REGISTERED")
OUTPUT_CHARACTERS_MAX: Final = 2000  # a screenful; --json prints all of it


def run_row(run: Object) -> tuple[Cell, ...]:
    """The row of `run` under RUN_COLUMNS."""
    return (
        run["id"],
        run["connection"],
        run["provider_run_id"],
        status_text(run["status"]),
        progress_text(run),
        ago(run.get("registered_at")),
        due(run.get("next_poll_at")),
    )


def progress_text(run: Object) -> str:
    """`3/5`; empty while the provider reports no progress or no total."""
    progress = run.get("progress")
    return f"{progress['completed']}/{progress['total']}" if progress and progress["total"] else ""


def print_run(run: Object, deliveries: list[Object]) -> None:
    """Print one run with its timeline, its events with `deliveries`, and its output."""
    word = run.get("provider_status")
    say(run["id"], status_text(run["status"]), f"(the provider says {word})" if word else None)
    print_facts(_facts(run))
    _print_timeline(run)
    _print_events(run.get("events") or [], deliveries)
    if run.get("output") is not None:
        text = json.dumps(run["output"], ensure_ascii=False, indent=2)
        cut = f"\n… ({len(text)} characters; --json has all)" if len(text) > OUTPUT_CHARACTERS_MAX else ""
        say_heading("output, cut" if cut else "output")
        for line in (text[:OUTPUT_CHARACTERS_MAX] + cut).splitlines():
            say(Text("  " + clean(line)))


def _facts(run: Object) -> Iterator[tuple[str, Cell]]:
    progress = run.get("progress")
    yield "connection", f"{run['connection']} ({run['provider']})"
    if definition := run.get("definition"):
        yield "definition", f"{definition['name']} {definition['version']}"
    yield "provider run", run["provider_run_id"]
    yield "workflow", run.get("workflow_id")
    yield "link", run.get("link")
    for name in ("registered", "created", "started", "finished", "observed"):
        yield name, _when(run.get(f"{name}_at"))
    yield "progress", f"{progress['completed']} of {progress['total']}" if progress and progress["total"] else None
    yield "error", _error(run.get("error"))
    yield "tags", ", ".join(run.get("tags") or [])
    yield "metadata", json.dumps(run["metadata"], ensure_ascii=False) if run.get("metadata") else None
    yield "deadline", _when(run.get("deadline_at"))
    last = run.get("last_polled_at")
    yield "last error", last_error_text(run)
    yield "polls", f"{run.get('polls', 0)}" + (f", the last {ago(last)}" if last else "")
    yield "next poll", _next_poll(run)


def _when(instant: object) -> str | None:
    return f"{instant}  ({ago(instant)})" if instant else None


def _error(error: Object | None) -> str | None:
    if not error:
        return None
    where = ", ".join(f"{name} {error[name]}" for name in ("code", "step") if error.get(name))
    return f"{error['message']}" + (f"  ({where})" if where else "")


def _next_poll(run: Object) -> str | None:
    if run["settled"]:
        return "none, it has settled"
    at = run.get("next_poll_at")
    reason = run.get("next_poll_reason")
    return (ago(at) if at else "not planned") + (f": {reason}" if reason else "")


def _print_timeline(run: Object) -> None:
    transitions = run.get("transitions") or []
    if not transitions:
        return
    say_heading("timeline")
    before = instant_of(run.get("registered_at"))
    rows: list[tuple[Cell, ...]] = [("  " + str(run.get("registered_at")), "", "registered", "")]
    for step in transitions:
        at = instant_of(step["at"])
        gap = f"+{rough(max(0.0, (at - before).total_seconds()))}" if at and before else ""
        rows.append((f"  {step['at']}", gap, status_text(step["to"]), step.get("provider_status")))
        before = at or before
    print_table(("  AT", "AFTER", "STATUS", "PROVIDER STATUS"), rows)


def _print_events(events: list[Object], deliveries: list[Object]) -> None:
    if not events:
        return
    say_heading("events")
    rows: list[tuple[Cell, ...]] = []
    for event in events:
        rows.append((f"  {(event.get('data') or {}).get('sequence')}", event["type"], event["id"], ""))
        rows += (_delivery_row(delivery) for delivery in deliveries if delivery.get("event_id") == event["id"])
    print_table(("  #", "EVENT", "ID", "DELIVERY"), rows)


def _delivery_row(delivery: Object) -> tuple[Cell, ...]:
    result = delivery.get("last_status") or delivery.get("last_outcome") or ""
    next_at = delivery.get("next_attempt_at")
    state = status_text(delivery.get("state"))
    parts = [str(result), count(delivery["attempt_count"], "attempt"), next_at and f"next {due(next_at)}"]
    detail = Text(clean(" " + ", ".join(part for part in parts if part)))
    return "", f"  → {delivery.get('endpoint_id')}", f"  {delivery['id']}", state + detail
