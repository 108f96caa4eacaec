"""`runbridge trigger EVENT`: send a test event, through the daemon (bridge.ping) or directly to a URL (any type)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from bridge.cli.options import ENDPOINT, EVENT_TYPES, Settings, common_options, read_keys, secret_options
from bridge.cli.output import mark, print_value, say
from bridge.cli.webhook_post import WebhookTarget
from bridge.domain.event import Event, EventType, other_event, run_event
from bridge.domain.fields import MASK
from bridge.domain.ids import new_id
from bridge.domain.run import CadenceOverrides, Progress, Run, RunError, RunStatus
from bridge.domain.timestamps import format_instant
from bridge.domain.webhook_url import mask_query_secrets

_STATUSES_OF = {  # before and after
    EventType.RUN_STARTED: (RunStatus.QUEUED, RunStatus.RUNNING),
    EventType.RUN_PROGRESSED: (RunStatus.RUNNING, RunStatus.RUNNING),
    EventType.RUN_WAITING: (RunStatus.RUNNING, RunStatus.WAITING),
    EventType.RUN_RESUMED: (RunStatus.WAITING, RunStatus.RUNNING),
    EventType.RUN_OVERDUE: (RunStatus.RUNNING, RunStatus.RUNNING),
    EventType.RUN_FINISHED: (RunStatus.RUNNING, RunStatus.SUCCEEDED),
}
_OUTCOMES = [status.value for status in RunStatus if status.is_settled]


@click.command
@click.argument("event", metavar="EVENT", type=EVENT_TYPES)
@click.option(
    "--endpoint", metavar="ID", type=ENDPOINT, help="Send to this endpoint's URL; the daemon sends bridge.ping itself."
)
@click.option("--to", "to_url", metavar="URL", help="Send to this URL, from here.")
@click.option("--status", type=click.Choice(_OUTCOMES), help="Status of the run in a run.finished.")
@secret_options
@common_options
def trigger(
    settings: Settings,
    event: list[str],
    endpoint: str | None,
    to_url: str | None,
    status: str | None,
    secret: str | None,
    secret_file: Path | None,
) -> int:
    """Send a test event of type EVENT, for example run.finished; exit 1 unless the receiver accepts it.

    The body has the form of a real event, with `"test": true` in the metadata of the run. It is not recorded, except
    a bridge.ping to --endpoint. Without a secret it is not signed.
    """
    if len(event) != 1:
        raise click.UsageError("give one event type")
    event_type = EventType(event[0])
    if (endpoint is None) == (to_url is None):
        raise click.UsageError("give either --endpoint ID or --to URL")
    if status and event_type is not EventType.RUN_FINISHED:
        raise click.UsageError("--status applies to run.finished only")
    if endpoint is not None and event_type is EventType.BRIDGE_PING:
        from bridge.cli.endpoints import ping_endpoint

        return ping_endpoint(settings, endpoint, is_waiting=True)
    keys = read_keys(secret, secret_file)
    if endpoint is not None:
        if not keys:
            raise click.UsageError("the daemon does not give out an endpoint's secret: add --secret-file FILE")
        to_url = settings.client().get("v1", "endpoints", endpoint).object()["url"]
        if MASK in str(to_url):
            raise click.UsageError(
                f"the daemon does not show the secret in the URL of {endpoint}: give it with --to URL"
            )
    assert to_url is not None
    sample = sample_event(event_type, RunStatus(status) if status else None)
    result = WebhookTarget(to_url, keys).post(sample.id, sample.body)
    if settings.as_json:
        print_value(result.as_object())
    else:
        took = f"in {result.took_ms} ms"
        say(mark(result.is_accepted), sample.type.value, sample.id, "→", mask_query_secrets(to_url), str(result), took)
    return 0 if result.is_accepted else 1


def sample_event(event_type: EventType, outcome: RunStatus | None = None) -> Event:
    """Return an event with the exact form of a real one, about an invented run, connection or endpoint."""
    now = datetime.now(UTC)
    match event_type:
        case EventType.CONNECTION_FAILING | EventType.CONNECTION_RECOVERED:
            is_failing = event_type is EventType.CONNECTION_FAILING
            connection: dict[str, Any] = {
                "name": "test",
                "provider": "dify",
                "health": "failing" if is_failing else "ok",
                "reason": "a test" if is_failing else None,
            }
            return other_event(new_id("evt"), event_type, {"connection": connection}, now=now)
        case EventType.ENDPOINT_FAILING | EventType.ENDPOINT_DISABLED:
            endpoint: dict[str, Any] = {"id": new_id("ep"), "description": "a test", "reason": "a test"}
            return other_event(new_id("evt"), event_type, {"endpoint": endpoint}, now=now)
        case EventType.BRIDGE_PING:
            endpoint = {"id": new_id("ep"), "description": "a test"}
            return other_event(new_id("evt"), event_type, {"endpoint": endpoint}, now=now)
        case _:
            before, after = _STATUSES_OF[event_type]
            run = _sample_run(outcome or after, now)
            return run_event(new_id("evt"), event_type, run, sequence=1, previous_status=before, now=now)


def _sample_run(status: RunStatus, now: datetime) -> Run:
    started_at = format_instant(now - timedelta(seconds=42))
    is_good = status is RunStatus.SUCCEEDED
    return Run(
        id=new_id("run"),
        connection="test",
        provider="dify",
        provider_run_id="00000000-0000-4000-8000-000000000000",
        workflow_id="test-workflow",
        status=status,
        provider_status=status.value,
        progress=Progress(3, 5),
        output={"result": "a test"} if is_good else None,
        output_truncated=False,
        error=RunError("a test") if status.is_settled and not is_good else None,
        created_at=started_at,
        started_at=started_at,
        finished_at=format_instant(now) if status.is_settled else None,
        registered_at=now - timedelta(seconds=40),
        observed_at=now,
        status_since=now,
        metadata={"test": True},
        tags=("test",),
        cadence=CadenceOverrides(),
        deadline_at=None,
        deadline_is_fixed=False,
        version=1,
        sequence=1,
        has_started=True,
        is_paused=False,
        is_overdue=False,
        polls=1,
        last_polled_at=now,
        next_poll_at=None,
        failure_streak=0,
        not_found_count=0,
        not_found_since=None,
    )
