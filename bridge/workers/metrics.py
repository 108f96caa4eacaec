"""What the workers count, for /metrics. Labels are configured names only, never run ids or URLs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_POLLS = (1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 320)


class Metrics:
    """Counters of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.polls = Counter(
            "runbridge_polls_total", "Polls by outcome", ["connection", "outcome"], registry=self.registry
        )
        self.poll_seconds = Histogram(
            "runbridge_poll_duration_seconds",
            "Time of one poll",
            ["connection"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.lists = Counter(
            "runbridge_lists_total",
            "Requests for a list of runs by outcome",
            ["connection", "outcome"],
            registry=self.registry,
        )
        self.discovered = Counter(
            "runbridge_runs_discovered_total",
            "Runs watched because a list showed them",
            ["connection"],
            registry=self.registry,
        )
        self.noticed_delay = Histogram(
            "runbridge_noticed_delay_seconds",
            "How late a run's end was noticed: half the time since it was last seen alive",
            ["connection"],
            buckets=(*_SECONDS, 60, 300),
            registry=self.registry,
        )
        self.polls_per_run = Histogram(
            "runbridge_polls_per_run",
            "Polls of a run until it had settled, its sightings in lists apart",
            ["connection"],
            buckets=_POLLS,
            registry=self.registry,
        )
        self.transitions = Counter(
            "runbridge_transitions_total", "Changes of status seen", ["connection", "to"], registry=self.registry
        )
        self.regressions = Counter(
            "runbridge_status_regressions_total",
            "Observations of a run that was settled already, ignored",
            ["connection"],
            registry=self.registry,
        )
        self.unmapped = Counter(
            "runbridge_status_unmapped_total",
            "Observations with an unknown word",
            ["connection"],
            registry=self.registry,
        )
        self.attempts = Counter(
            "runbridge_delivery_attempts_total", "Webhook POSTs by outcome", ["outcome"], registry=self.registry
        )
        self.endpoints_disabled = Counter(
            "runbridge_endpoints_disabled_total",
            "Endpoints switched off by themselves: gone (410) or failing (the rule)",
            ["cause"],
            registry=self.registry,
        )
        self.endpoints_failing = Counter(
            "runbridge_endpoints_failing_total", "Warnings about endpoints that only fail", registry=self.registry
        )
        self.attempt_seconds = Histogram(
            "runbridge_delivery_duration_seconds", "Time of one POST", buckets=_SECONDS, registry=self.registry
        )
        self.event_seconds = Histogram(
            "runbridge_event_to_delivered_seconds",
            "From recording an event to its first delivery",
            buckets=(*_SECONDS, 60, 600, 3600, 86400),
            registry=self.registry,
        )
        self.retention_rows = Counter(
            "runbridge_retention_rows_deleted_total", "Rows no longer kept", ["table"], registry=self.registry
        )
        self.retention_last_run = Gauge(
            "runbridge_retention_last_run_timestamp_seconds", "When housekeeping last ended", registry=self.registry
        )
