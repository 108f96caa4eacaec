"""The metrics that the workers count, for /metrics. Labels are configured names only, never run ids or URLs."""

from __future__ import annotations

import asyncio
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from bridge import __version__
from bridge.domain.delivery import Outcome
from bridge.domain.failure import FailureKind
from bridge.runtime.memory import available_bytes

Series = TypeVar("Series", Counter, Histogram)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_POLLS = (1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 320)
ONE_RUN: Final = "one-run"
"""The label `endpoint` of the webhooks of single runs, all together."""
OTHER: Final = "other"
ENDPOINTS_MAX: Final = 500  # with series of their own; the endpoints beyond share OTHER
LAG_EVERY_S: Final = 5.0
_LAG_SAMPLE_S: Final = 0.01


class Metrics:
    """Counters of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[tuple[object, tuple[str, ...]], Any] = {}
        self._endpoints: set[str] = set()
        self._add_watching()
        self._add_delivering()
        self._add_housekeeping()
        self._add_process()

    def _add_watching(self) -> None:
        by_connection = ["connection"]
        self.polls = self._counter("polls_total", "Polls by outcome", ["connection", "outcome"])
        self.poll_seconds = self._histogram("poll_duration_seconds", "Time of one poll", by_connection)
        self.lists = self._counter("lists_total", "Requests for a list of runs by outcome", ["connection", "outcome"])
        self.discovered = self._counter(
            "runs_discovered_total", "Runs watched because a list showed them", by_connection
        )
        self.noticed_delay = self._histogram(
            "noticed_delay_seconds",
            "How late a run's end was noticed, by when runs like it end between two polls",
            by_connection,
            (*_SECONDS, 60, 300),
        )
        self.polls_per_run = self._histogram(
            "polls_per_run", "Polls of a run until it had settled, its sightings in lists apart", by_connection, _POLLS
        )
        self.transitions = self._counter("transitions_total", "Changes of status seen", ["connection", "to"])
        self.regressions = self._counter(
            "status_regressions_total", "Observations of a run that was settled already, ignored", by_connection
        )
        self.unmapped = self._counter("status_unmapped_total", "Observations with an unknown word", by_connection)
        self.remarks = self._counter(
            "definition_remarks_total", "Answers in which a definition's path or expression failed", by_connection
        )

    def expect_connections(self, names: Iterable[str]) -> None:
        """Begin their series at zero, so that a first failure is an increase."""
        for name in names:
            for outcome in ("observed", *FailureKind):
                self.of(self.polls, name, outcome)
            for metric in (self.unmapped, self.remarks, self.regressions):
                self.of(metric, name)

    def expect_endpoints(self, ids: Iterable[str]) -> None:
        """Begin their series at zero, and that of the webhooks of single runs."""
        for label in (ONE_RUN, *map(self._label_of, ids)):
            for result in ("delivered", "failed"):
                self.of(self.endpoint_attempts, label, result)
            for outcome in (Outcome.CLIENT_ERROR, Outcome.UNSIGNED):  # the first of these is an alert
                self.of(self.endpoint_failures, label, outcome)

    def note_attempt(self, endpoint_id: str | None, outcome: str, took_s: float, *, is_delivered: bool) -> None:
        """Count one attempt; `endpoint_id` None: of a webhook of a single run."""
        label = ONE_RUN if endpoint_id is None else self._label_of(endpoint_id)
        self.of(self.attempts, outcome).inc()
        self.attempt_seconds.observe(took_s)
        self.of(self.endpoint_attempts, label, "delivered" if is_delivered else "failed").inc()
        if not is_delivered:
            self.of(self.endpoint_failures, label, outcome).inc()
        self.of(self.endpoint_seconds, label).observe(took_s)

    def _label_of(self, endpoint_id: str) -> str:
        if endpoint_id not in self._endpoints:
            if len(self._endpoints) >= ENDPOINTS_MAX:
                return OTHER
            self._endpoints.add(endpoint_id)
        return endpoint_id

    async def measure_lag(self) -> float:
        """Notice how late the event loop wakes a timer. A worker's pass."""
        clock = asyncio.get_running_loop().time
        due_at = clock() + _LAG_SAMPLE_S
        await asyncio.sleep(_LAG_SAMPLE_S)
        self.loop_lag.observe(max(0.0, clock() - due_at))
        return LAG_EVERY_S

    def note_reload(self, at_s: float, *, is_good: bool) -> None:
        """Note that the configuration was put into effect at this Unix time, or refused."""
        self.config_reload_ok.set(is_good)
        if is_good:
            self.config_reload_at.set(at_s)

    def of(self, metric: Series, *labels: str) -> Series:
        """`metric.labels(*labels)`, cached: prometheus_client takes longer to find a series than to count in it."""
        series: Series | None = self._series.get((metric, labels))
        if series is None:
            series = self._series[metric, labels] = metric.labels(*labels)
        return series

    def _add_delivering(self) -> None:
        self.attempts = self._counter("delivery_attempts_total", "Webhook POSTs by outcome", ["outcome"])
        for outcome in Outcome:
            self.of(self.attempts, outcome)
        self.endpoint_attempts = self._counter(
            "endpoint_attempts_total", "Webhook POSTs by endpoint: delivered or failed", ["endpoint", "result"]
        )
        self.endpoint_failures = self._counter(
            "endpoint_failures_total", "Failed webhook POSTs by endpoint and outcome", ["endpoint", "outcome"]
        )
        self.endpoint_seconds = self._histogram("endpoint_duration_seconds", "Time of one POST", ["endpoint"])
        self.endpoints_disabled = self._counter(
            "endpoints_disabled_total",
            "Endpoints switched off by themselves: gone (410) or failing (the rule)",
            ["cause"],
        )
        self.endpoints_failing = self._counter("endpoints_failing_total", "Warnings about endpoints that only fail")
        self.attempt_seconds = self._histogram("delivery_duration_seconds", "Time of one POST")
        self.event_seconds = self._histogram(
            "event_to_delivered_seconds",
            "From recording an event to its first delivery",
            buckets=(*_SECONDS, 60, 600, 3600, 86400),
        )

    def _add_housekeeping(self) -> None:
        self.retention_rows = self._counter("retention_rows_deleted_total", "Rows no longer kept", ["table"])
        self.retention_last_run = Gauge(
            "runbridge_retention_last_run_timestamp_seconds", "When housekeeping last ended", registry=self.registry
        )

        self.alerts = self._counter("alerts_total", "Messages to people by channel and outcome", ["channel", "outcome"])
        self.spans = self._counter("otel_spans_total", "Spans for the OpenTelemetry collector by result", ["result"])
        for result in ("sent", "failed", "dropped"):
            self.of(self.spans, result)
        self.backups = self._counter("backups_total", "Scheduled copies of the database", ["outcome"])
        for outcome in ("made", "failed"):
            self.of(self.backups, outcome)
        self.backup_at = self._gauge("backup_last_success_timestamp_seconds", "When the newest copy was made; 0: none")
        self.backup_planned = self._gauge("backup_scheduled", "1 if copies are made by the calendar")

    def _add_process(self) -> None:
        ProcessCollector(registry=self.registry)
        build = Gauge("runbridge_build_info", "Versions", ["version", "python", "sqlite"], registry=self.registry)
        build.labels(__version__, platform.python_version(), sqlite3.sqlite_version).set(1)
        self._gauge("memory_available_bytes", "Memory that the daemon may still take").set_function(available_bytes)
        self.loop_lag = self._histogram("loop_lag_seconds", "How late the event loop wakes a timer, sampled")
        self.config_reload_ok = self._gauge("config_last_reload_successful", "0 if the last reload was refused")
        self.config_reload_at = self._gauge(
            "config_last_reload_success_timestamp_seconds", "When the configuration in effect was read"
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"runbridge_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"runbridge_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(f"runbridge_{name}", text, labels, buckets=buckets, registry=self.registry)
