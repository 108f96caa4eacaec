"""The log lines and metrics of attempts and of the health of endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from bridge.domain.auto_disable import AutoDisableStep
from bridge.domain.clock import Clock
from bridge.domain.delivery import Outcome
from bridge.domain.endpoint import EndpointSource
from bridge.domain.leased_delivery import LeasedDelivery
from bridge.domain.timestamps import format_instant
from bridge.runtime.metrics import Metrics
from bridge.store.attempts import AttemptResult
from bridge.store.endpoint_health import HealthChange

if TYPE_CHECKING:
    from bridge.runtime.tracing import Tracing

log: Final = structlog.get_logger()


class AttemptLog:
    """Notes what was recorded."""

    def __init__(self, metrics: Metrics, clock: Clock, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._clock = clock
        self._tracing = tracing
        self._log = log.bind()  # bound once: half of what a line costs

    def attempt(self, claimed: LeasedDelivery, result: AttemptResult) -> None:
        """Log one canonical line for an attempt, and count it."""
        answer = result.answer
        if self._tracing is not None:
            self._tracing.attempted(claimed, result.at, answer, result.state)
        is_delivered = answer.outcome is Outcome.DELIVERED
        shared_id = None if claimed.endpoint.source is EndpointSource.RUN else claimed.endpoint.id
        self._metrics.note_attempt(
            shared_id, answer.outcome.value, answer.duration_ms / 1000, is_delivered=is_delivered
        )
        if is_delivered and not claimed.delivery.is_manual:
            waited_s = (self._clock.now() - claimed.delivery.created_at).total_seconds()
            self._metrics.event_seconds.observe(max(0.0, waited_s))
        self._log.info(
            "delivery.attempted",
            delivery_id=claimed.delivery.id,
            event_id=claimed.delivery.event_id,
            endpoint=claimed.endpoint.id,
            attempt=claimed.delivery.attempts + 1,
            outcome=answer.outcome.value,
            status=answer.status,
            duration_ms=answer.duration_ms,
            detail=answer.detail,
            state=result.state.value,
            next_attempt_at=result.next_attempt_at and format_instant(result.next_attempt_at),
        )

    def health(self, endpoint_id: str, note: HealthChange, detail: str | None) -> None:
        """Log edges only: slowed, failing, disabled, recovered; each once. `detail` is that of the last answer."""
        if note.after.is_probed and not note.before.is_probed:
            opens_at = note.after.opens_at
            until = opens_at and format_instant(opens_at)
            log.warning("endpoint.slowed", endpoint=endpoint_id, until=until, reason=detail)
        elif note.before.is_probed and not note.after.is_probed:
            log.info("endpoint.recovered", endpoint=endpoint_id)
        match note.step:
            case AutoDisableStep.DISABLE:
                self._metrics.endpoints_disabled.labels(note.cause).inc()
                log.error("endpoint.disabled", endpoint=endpoint_id, reason=note.reason)
            case AutoDisableStep.WARN:
                self._metrics.endpoints_failing.inc()
                log.warning("endpoint.failing", endpoint=endpoint_id, reason=note.reason)
            case AutoDisableStep.NOTHING:
                pass
