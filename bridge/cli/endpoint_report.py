"""The report of an endpoint on the terminal: its settings, its health, and how its attempts went."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from rich.text import Text

from bridge.cli.client import Object
from bridge.cli.output import ago, count, instant_of, print_facts, say, status_text


def event_names(endpoint: Object) -> str:
    """The types that it receives."""
    events = endpoint.get("events")
    return ", ".join(events) if events else "all but run.progressed"


def enabled_text(endpoint: Object) -> Text:
    """Enabled or disabled."""
    return status_text("enabled" if endpoint.get("enabled", True) else "disabled")


def health_text(endpoint: Object) -> Text:
    """Disabled, failing (every recent attempt failed), paused, or enabled."""
    if endpoint.get("enabled", True):
        paused_until = instant_of(endpoint.get("paused_until"))
        if endpoint.get("failing_since"):
            return status_text("failing")
        if paused_until and paused_until > datetime.now(UTC):
            return status_text("paused")
    return enabled_text(endpoint)


def stats_cells(stats: Object) -> tuple[str | None, ...]:
    """Success rate and p95 of the last day, the last answer, since when the oldest is due, what is pending."""
    day: Object = stats.get("day") or {}
    last: Object = stats.get("last_answer") or {}
    return (
        _percent(day.get("success_rate")),
        f"{day['p95_ms']} ms" if day.get("p95_ms") is not None else None,
        str(last.get("status") or last.get("outcome") or ""),
        ago(stats.get("oldest_due_at")),
        str(stats.get("pending", "")),
    )


def _window_text(window: Object) -> str | None:
    rate = _percent(window.get("success_rate"))
    if rate is None:
        return None
    counted = f"{rate} ({window['delivered']} delivered, {window['failed']} failed)"
    return f"{counted}, p50 {window['p50_ms']} ms, p95 {window['p95_ms']} ms"


def _last_answer(stats: Object) -> str | None:
    last: Object | None = stats.get("last_answer")
    if not last:
        return None
    result = f"{last['status']} ({last['outcome']})" if last["status"] else str(last["outcome"])
    return f"{ago(last['at'])}: {result}" + (f", {last['detail']}" if last["detail"] else "")


def _percent(rate: float | None) -> str | None:
    """A rate in percent, rounded down, so that 100 % means all."""
    return None if rate is None else f"{math.floor(rate * 1000 + 1e-6) / 10:g}%"


def _old_secret(endpoint: Object) -> str | None:
    until = endpoint.get("old_secret_until")
    return f"signs beside the new one until {until} ({ago(until)})" if until else None


def _filter_errors(endpoint: Object) -> str | None:
    failed = endpoint.get("filter_errors")
    if not failed:
        return None
    return f"{count(failed, 'event')} not sent since the daemon started; `endpoints test-filter` shows why"


def print_endpoint(endpoint: Object) -> None:
    """Print one endpoint."""
    headers = (endpoint.get("headers") or {}).items()
    stats: Object = endpoint.get("stats") or {}
    say(endpoint["id"], health_text(endpoint), endpoint.get("disabled_reason"))
    print_facts(
        [
            ("url", endpoint["url"]),
            ("events", event_names(endpoint)),
            ("filter", endpoint.get("filter")),
            ("filter errors", _filter_errors(endpoint)),
            ("last hour", _window_text(stats.get("hour") or {})),
            ("last day", _window_text(stats.get("day") or {})),
            ("counted since", stats.get("sampled_since")),
            ("last answer", _last_answer(stats)),
            ("oldest due", ago(stats.get("oldest_due_at"))),
            ("pending", str(stats["pending"]) if "pending" in stats else None),
            ("headers", ", ".join(f"{name}: {value}" for name, value in headers)),
            ("ordered", "yes" if endpoint.get("ordered") else None),
            ("payload", endpoint.get("payload")),
            ("format", endpoint.get("format")),
            ("rate limit", f"{endpoint['rate_limit']:g} a second" if endpoint.get("rate_limit") else None),
            ("signature", ", ".join(endpoint.get("signature") or [])),
            ("trace context", "passed on" if endpoint.get("trace_context") else None),
            ("old secret", _old_secret(endpoint)),
            ("public keys", ", ".join(endpoint.get("public_keys") or [])),
            ("failing since", endpoint.get("failing_since")),
            ("paused until", endpoint.get("paused_until")),
            ("description", endpoint.get("description")),
            ("from", endpoint.get("source")),
            ("run", endpoint.get("run_id")),
            ("created", endpoint.get("created_at")),
        ]
    )
