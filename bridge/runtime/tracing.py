"""Traces of each run for an OpenTelemetry collector.

    run ─┬─ poll ─── record ─── deliver      one trace for each run: that of its registration, or one of its own
         └─ poll

Only the daemon imports this, and only if traces are sent. Ids follow from those of the run and its events, so that the
spans of several nodes, and from before and after a restart, fit together. A thread of the SDK sends the spans: a
collector that is down or slow costs spans, never a delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import requests
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from bridge import __version__
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.leased_delivery import LeasedDelivery
from bridge.domain.observation import PollFailed, PollResult
from bridge.domain.run import Run, RunStatus
from bridge.domain.trace_context import TraceContext
from bridge.runtime.metrics import Metrics

log = structlog.get_logger()
CLOSE_S: Final = 3.0  # for the last spans, when the daemon stops
ANSWER_BYTES_MAX: Final = 64 * 1024
_QUEUE_MAX: Final = 2048  # the SDK's own, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BAD_ENDS: Final = (RunStatus.FAILED, RunStatus.EXPIRED, RunStatus.LOST)


class Tracing:
    """Makes spans of polls, records and attempts that have ended, and passes them to the SDK."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        service_name: str | None = None,
    ) -> None:
        """`endpoint` is the base URL of the collector. The standard OTEL_… variables supply what is None."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would log a faulty header; see `_Exporter`
        if service_name is not None or "OTEL_SERVICE_NAME" not in os.environ:
            service_name = service_name or "runbridge"
        named = {"service.name": service_name} if service_name else {}
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource.create({**named, "service.version": __version__}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._exporter = _Exporter(metrics, endpoint, headers)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("runbridge", __version__)
        self._metrics = metrics

    @property
    def failure(self) -> str | None:
        """Why the collector takes no spans at the moment; None if it does."""
        return self._exporter.failure

    async def close(self) -> None:
        """Send what waits, for at most CLOSE_S."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        # A thread of its own: the event loop waits for the end of those of its executor.
        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await done.wait()

    # -- what has happened

    def polled(self, before: Run, result: PollResult, took_s: float, *, is_listed: bool) -> None:
        """Trace a poll that has its result; `before` has the counters of this poll."""
        if before.last_polled_at is None:
            return
        failed = result if isinstance(result, PollFailed) else None
        self._span(
            "poll",
            self._context_of(before.id, before.trace_context),
            _poll_id(before),
            (before.last_polled_at, before.last_polled_at + timedelta(seconds=took_s)),
            {
                **_facts(before),
                "runbridge.poll.number": before.polls,
                "runbridge.poll.is_listed": is_listed,
                "runbridge.poll.outcome": failed.kind.value if failed else "observed",
            },
            kind=SpanKind.CLIENT,
            error=failed.message if failed else None,
        )

    def recorded(self, before: Run, after: Run, now: datetime) -> None:
        """Trace the recording, by `now`, of the events that a poll led to."""
        own = self._context_of(after.id, after.trace_context)
        self._record(own, _child(own, _poll_id(before)), before.sequence + 1, after, now)

    def expired(self, after: Run, now: datetime) -> None:
        """The end of a run was recorded without a poll."""
        own = self._context_of(after.id, after.trace_context)
        self._record(own, own, after.sequence, after, now)

    def _record(self, own: SpanContext, parent: SpanContext, first: int, after: Run, now: datetime) -> None:
        began_at = min(max(after.observed_at or after.registered_at, after.status_since), now)
        facts = {**_facts(after), "runbridge.run.status": after.status.value}
        for sequence in range(first, after.sequence + 1):
            facts["runbridge.event.sequence"] = sequence
            self._span("record", parent, _event_id(after.id, sequence), (began_at, now), facts)
        if not after.settled:
            return
        outer = self._outer_of(after.trace_context)
        error = after.status.value if after.status in _BAD_ENDS else None
        self._ids.trace_id = own.trace_id
        self._span("run", outer, own.span_id, (after.registered_at, now), facts, error=error)

    def attempted(self, claimed: LeasedDelivery, at: datetime, answer: PostResult, state: DeliveryState) -> None:
        """An attempt that began at `at` was recorded; `state` is what the delivery has become."""
        delivery = claimed.delivery
        if delivery.run_id is not None and delivery.sequence is not None:
            own = self._context_of(delivery.run_id, claimed.trace_context)
            parent: SpanContext | None = _child(own, _event_id(delivery.run_id, delivery.sequence))
        else:
            parent, self._ids.trace_id = None, _number(16, delivery.event_id)
        is_delivered = answer.outcome is Outcome.DELIVERED
        self._span(
            "deliver",
            parent,
            _number(8, delivery.id, str(delivery.attempts), at.isoformat()),
            (at, at + timedelta(milliseconds=answer.duration_ms)),
            {
                "runbridge.run.id": delivery.run_id,
                "runbridge.event.id": delivery.event_id,
                "runbridge.event.type": delivery.event_type,
                "runbridge.endpoint.id": claimed.endpoint.id,
                "runbridge.delivery.id": delivery.id,
                "runbridge.delivery.attempt": delivery.attempts + 1,
                "runbridge.delivery.outcome": answer.outcome.value,
                "runbridge.delivery.state": state.value,
                "http.response.status_code": answer.status,
            },
            kind=SpanKind.CLIENT,
            error=None if is_delivered else answer.outcome.value,
        )

    # -- spans

    def _context_of(self, run_id: str, trace_context: str | None) -> SpanContext:
        """The span of the run, whose children the others are; sampled if the sampler takes the run."""
        outer = self._outer_of(trace_context)
        trace_id = outer.trace_id if outer else _number(16, run_id)
        chosen = self._provider.sampler.should_sample(_around(outer), trace_id, "run").decision
        flags = TraceFlags(TraceFlags.SAMPLED if chosen is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT)
        return SpanContext(trace_id, _number(8, run_id), is_remote=True, trace_flags=flags)

    @staticmethod
    def _outer_of(trace_context: str | None) -> SpanContext | None:
        given = TraceContext.of_text(trace_context) if trace_context else None
        if given is None:
            return None
        flags = TraceFlags(int(given.is_sampled))
        return SpanContext(given.trace_id, given.span_id, is_remote=True, trace_flags=flags)

    def _span(
        self,
        name: str,
        parent: SpanContext | None,
        span_id: int,
        times: tuple[datetime, datetime],
        attributes: Mapping[str, Any],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
    ) -> None:
        if not self._exporter.has_room:
            self._metrics.of(self._metrics.spans, "dropped").inc()
            return
        self._ids.span_id = span_id
        began, ended = ((at - _EPOCH) // timedelta(microseconds=1) * 1000 for at in times)
        known = {key: value for key, value in attributes.items() if value is not None}
        span = self._tracer.start_span(name, _around(parent), kind=kind, attributes=known, start_time=began)
        if span.is_recording():
            self._exporter.made += span.get_span_context().trace_flags.sampled
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, error))
            span.end(end_time=max(began, ended))


class _Ids(IdGenerator):
    """The ids of the next span, and of its trace if it has no parent."""

    trace_id = span_id = 1

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        return self.trace_id


class _Exporter(SpanExporter):
    """Exports spans, counts those that the collector takes, and logs when it begins or ceases to refuse them.

    The SDK's thread calls it.
    """

    def __init__(self, metrics: Metrics, endpoint: str | None, headers: Mapping[str, str] | None) -> None:
        self.made = 0
        self.failure: str | None = None
        self._metrics = metrics
        self._ended = 0
        self._answered: int | None = None
        self._session = requests.Session()
        self._session.stream = True  # so that no answer is read without a bound
        self._session.max_redirects = 0  # the headers are for the collector alone
        self._session.hooks["response"].append(self._note_answer)
        url = None if endpoint is None else f"{endpoint.removesuffix('/v1/traces')}/v1/traces"
        self._inner = OTLPSpanExporter(endpoint=url, headers=dict(headers or {}), session=self._session)
        size = os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")
        self._room = int(size) if size.isascii() and size.isdigit() else _QUEUE_MAX

    @property
    def has_room(self) -> bool:
        """Whether another span can wait; the SDK would drop an older one without a word."""
        return self.made - self._ended < self._room

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some spans; tries again for ten seconds (OTEL_EXPORTER_OTLP_TIMEOUT)."""
        self._answered = None
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            is_good = result is SpanExportResult.SUCCESS
            self._ended += len(spans)
            self._metrics.of(self._metrics.spans, "sent" if is_good else "failed").inc(len(spans))
            self._note(None if is_good else self._why())
        return result

    def shutdown(self) -> None:
        """End a wait for the next try."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # the SDK says nothing of what it returns

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return True

    def _note_answer(self, response: requests.Response, *_: object, **__: object) -> None:
        self._answered = response.status_code
        response.raw.read(ANSWER_BYTES_MAX)
        response.close()

    def _why(self) -> str:
        if self._answered is None:
            return "the collector cannot be reached"
        return f"the collector answered {self._answered}"

    def _note(self, failure: str | None) -> None:
        before, self.failure = self.failure, failure
        if failure is not None and before is None:
            log.warning("traces.failing", reason=failure, advice="deliveries go on; the spans are lost")
        elif failure is None and before is not None:
            log.info("traces.recovered")


def _number(size: int, *parts: str) -> int:
    """An id of `size` bytes derived from these texts; never zero."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:size]) or 1


def _poll_id(run: Run) -> int:
    return _number(8, run.id, "poll", str(run.last_polled_at))


def _event_id(run_id: str, sequence: int) -> int:
    return _number(8, run_id, "event", str(sequence))


def _child(parent: SpanContext, span_id: int) -> SpanContext:
    return SpanContext(parent.trace_id, span_id, is_remote=True, trace_flags=parent.trace_flags)


def _around(parent: SpanContext | None) -> Context:
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def _facts(run: Run) -> dict[str, Any]:
    """The attributes that identify a run. Its metadata, output and error are private and are not sent."""
    return {
        "runbridge.run.id": run.id,
        "runbridge.connection": run.connection,
        "runbridge.provider": run.provider,
        "runbridge.provider_run_id": run.provider_run_id,
        "runbridge.workflow_id": run.workflow_id,
    }
