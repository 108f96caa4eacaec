"""Response bodies about endpoints, deliveries and replays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self, get_type_hints

from pydantic import AliasPath, BeforeValidator, Field, create_model

from bridge import __version__
from bridge.api.response_models import NextCursor, Number, Shown, When
from bridge.domain.delivery import Attempt, Delivery, DeliveryState, Outcome
from bridge.domain.endpoint import CLOUDEVENTS, JSON, Endpoint, EndpointSettings, EndpointSource
from bridge.domain.event import EventType
from bridge.domain.fields import MASK
from bridge.domain.replay import ReplayState, ReplayStatus
from bridge.domain.trace_context import trace_headers
from bridge.domain.webhook_url import mask_query_secrets
from bridge.store.endpoint_stats import NO_STATS, EndpointStats


class _Named(Shown):
    id: str
    url: str
    source: EndpointSource


# Every setting with its plain type: the shared model bounds what a request may hold, an answer has no bounds.
_plain: dict[str, Any] = {
    name: (hint, Field(description=EndpointSettings.model_fields[name].description))
    for name, hint in get_type_hints(EndpointSettings).items()
}
_Settings: Any = create_model("_Settings", __base__=Shown, **_plain)


class StatsWindow(Shown):
    """Attempts of one stretch of time; interrupted ones do not count."""

    delivered: int = Field(description="Attempts that were accepted with a 2xx.")
    failed: int = Field(description="Attempts that ended in any other way.")
    success_rate: float | None = Field(description="Delivered of all, 0 to 1; null without attempts.")
    p50_ms: int | None = Field(description="Median duration of an attempt; null without attempts.")
    p95_ms: int | None = Field(description="95 of 100 attempts took at most this long; null without attempts.")


class LastAnswerBody(Shown):
    """How the newest attempt ended."""

    at: When
    outcome: Outcome
    status: int | None = Field(description="The HTTP status; null if there was no response.")
    detail: str | None = Field(description="One sentence about it.")


class EndpointStatsShown(Shown):
    """Results of recent attempts, and the number waiting. Windows of a busy endpoint hold the newest attempts only."""

    hour: StatsWindow = Field(description="The last 60 minutes.")
    day: StatsWindow = Field(description="The last 24 hours.")
    sampled_since: When | None = Field(
        description="The windows count only attempts since then, of which there were too many; null: they are complete."
    )
    pending: int = Field(description="Deliveries that are not settled; at most 20,000 of all endpoints are looked at.")
    oldest_due_at: When | None = Field(description="Since when the longest waiting delivery is due; null: none is due.")
    last_answer: LastAnswerBody | None = Field(description="Null if no recent attempt is known.")


class EndpointAnswer(_Settings, _Named):  # type: ignore[misc]  # made above, so that a setting stands once
    """An endpoint; the values of its headers and secrets in its URL's query are masked. `events` null: all but `run.progressed`.

    `public_keys` verify its v1a signatures. `failing_since`: every attempt since then failed. `paused_until`: it gets
    nothing before, because it asked for that or did not answer. `filter_errors`: on so many events its filter failed
    since the daemon started; it did not get them. `old_secret_until`: a secret that was rotated out still signs until then.
    """

    public_keys: list[str]
    run_id: str | None
    enabled: bool
    disabled_reason: str | None
    failing_since: When | None
    paused_until: When | None
    created_at: When | None
    filter_errors: int
    old_secret_until: When | None
    stats: EndpointStatsShown

    @classmethod
    def of(
        cls,
        endpoint: Endpoint,
        public_keys: Sequence[str],
        filter_errors: int = 0,
        stats: EndpointStats = NO_STATS,
        **more: object,
    ) -> Self:
        """An endpoint without its secret; the values of its headers, and secrets in its URL, are masked."""
        shown = {"url": mask_query_secrets(endpoint.url), "headers": dict.fromkeys(endpoint.headers, MASK)}
        read = {"public_keys": public_keys, "filter_errors": filter_errors, "stats": stats, "old_secret_until": None}
        return cls.model_validate({**dict(endpoint), **shown, **read, **more})


class NewEndpoint(EndpointAnswer):
    """An endpoint as it was made, with the secret that is shown here only."""

    secret: str


class FilterTestItem(Shown):
    """One event: whether the filter lets it through, or why it fails on it."""

    event_id: str
    type: EventType
    run_id: str | None
    created_at: When
    matches: bool
    error: str | None


class FilterTest(Shown):
    """The newest events with the filter's result, newest first; `failed` counts those on which it fails."""

    data: list[FilterTestItem]
    matched: int
    failed: int


class NewSecret(Shown):
    """The new signing secret, shown here only; the old one signs until `old_until`. For a v1a key, the public half."""

    id: str
    secret: str | None
    public_key: str | None
    old_until: When


class PingAnswer(Shown):
    """The event that was made."""

    event_id: str


class ReplayCount(Shown):
    """How many events the selection holds."""

    count: int


class ReplayAnswer(Shown):
    """A replay: how many events were selected, and how many of them are on their way or arrived."""

    id: str
    endpoint_id: str
    state: ReplayState
    count: int
    replayed: int
    rate: Number
    since: When = Field(validation_alias=AliasPath("selection", "since"))
    until: When | None = Field(validation_alias=AliasPath("selection", "until"))
    types: Annotated[list[EventType] | None, BeforeValidator(lambda types: types or None)] = Field(
        validation_alias=AliasPath("selection", "types")
    )
    status: ReplayStatus = Field(validation_alias=AliasPath("selection", "status"))
    created_at: When
    finished_at: When | None


class EventReplayAnswer(Shown):
    """The deliveries that are due now."""

    deliveries: list[str]


def _result(name: str) -> Any:
    return Field(validation_alias=AliasPath("answer", name))


class AttemptAnswer(Shown):
    """One POST. `response` holds up to 8 KiB of the receiver's answer; it and the request's headers are null in lists.

    `request_headers` are also null if no request was sent, and those of an endpoint's own are the ones it has now.
    Signatures and own values are masked.
    """

    number: int
    at: When
    outcome: Outcome = _result("outcome")
    status: int | None = _result("status")
    duration_ms: int = _result("duration_ms")
    detail: str | None = _result("detail")
    peer: str | None = _result("peer")
    phases: dict[str, int] = _result("phases")
    response: Annotated[str | None, BeforeValidator(lambda head: head.decode(errors="replace"))] = _result("head")
    truncated: bool = _result("head_is_truncated")
    manual: bool = Field(validation_alias="is_manual")
    next_attempt_at: When | None
    request_headers: dict[str, str] | None = None


def _request_headers(
    delivery: Delivery, attempt: Attempt, endpoint: Endpoint | None, trace: str | None
) -> dict[str, str] | None:
    """The headers that an attempt sent, without secrets; None if it did not come as far as a request."""
    if attempt.answer.peer is None:
        return None
    own = endpoint.headers if endpoint else {}
    schemes = endpoint.signature if endpoint else ("v1",)
    return {
        **dict.fromkeys(own, MASK),
        "webhook-id": delivery.event_id,
        "webhook-timestamp": str(int(attempt.at.timestamp())),
        "webhook-signature": " ".join(f"{scheme},{MASK}" for scheme in schemes),
        **(trace_headers(trace) if trace and endpoint and endpoint.trace_context else {}),
        "content-type": CLOUDEVENTS if endpoint and endpoint.format == "cloudevents" else JSON,
        "user-agent": f"runbridge/{__version__}",
    }


class DeliveryAnswer(Shown):
    """One event for one endpoint."""

    id: str
    event_id: str
    event_type: EventType
    endpoint_id: str
    run_id: str | None
    state: DeliveryState
    attempt_count: int
    failure_count: int
    created_at: When
    next_attempt_at: When | None
    settled_at: When | None
    last_outcome: Outcome | None
    last_status: int | None
    manual: bool
    attempts: list[AttemptAnswer]

    @classmethod
    def of(
        cls,
        delivery: Delivery,
        attempts: Sequence[Attempt],
        endpoint: Endpoint | None = None,
        *,
        with_responses: bool,
        trace: str | None = None,
    ) -> Self:
        """A delivery with every attempt; what was sent and answered only where one delivery is shown.

        `trace` is the trace context of its run.
        """
        shown = [AttemptAnswer.model_validate(attempt) for attempt in attempts]
        for answer, attempt in zip(shown, attempts, strict=True):
            answer.request_headers = _request_headers(delivery, attempt, endpoint, trace) if with_responses else None
            if not with_responses:
                answer.response = None
        return cls.model_validate(
            {
                **{name: getattr(delivery, name, None) for name in cls.model_fields},
                "attempt_count": delivery.attempts,
                "failure_count": delivery.failures,
                "manual": delivery.is_manual,
                "attempts": shown,
            }
        )


class EndpointList(Shown):
    """A page of endpoints."""

    data: list[EndpointAnswer]
    next_cursor: NextCursor


class DeliveryList(Shown):
    """A page of deliveries."""

    data: list[DeliveryAnswer]
    next_cursor: NextCursor


class ReplayList(Shown):
    """A page of replays."""

    data: list[ReplayAnswer]
    next_cursor: NextCursor
