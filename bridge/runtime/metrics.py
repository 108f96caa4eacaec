"""The metrics that the workers count, for /metrics. Labels are configured names only, never run ids or URLs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Series = TypeVar("Series", Counter, Histogram)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_POLLS = (1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 320)


class Metrics:
    """Counters of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[tuple[object, tuple[str, ...]], Any] = {}
        self._add_watching()
        self._add_delivering()
        self._add_housekeeping()

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

    def note_poll(self, connection: str, outcome: str, took_s: float) -> None:
        """Count one poll and its duration."""
        self.of(self.polls, connection, outcome).inc()
        self.of(self.poll_seconds, connection).observe(took_s)

    def of(self, metric: Series, *labels: str) -> Series:
        """`metric.labels(*labels)`, cached: prometheus_client takes longer to find a series than to count in it."""
        series: Series | None = self._series.get((metric, labels))
        if series is None:
            series = self._series[metric, labels] = metric.labels(*labels)
        return series

    def _add_delivering(self) -> None:
        self.attempts = self._counter("delivery_attempts_total", "Webhook POSTs by outcome", ["outcome"])
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

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"runbridge_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(f"runbridge_{name}", text, labels, buckets=buckets, registry=self.registry)
