"""A delivery: one event for one endpoint; an attempt: one HTTP POST of it; and when a failed one is tried again.

pending ──► delivered                 (2xx)
   │ ▲
   │ └── retry, replay                a lease, not a status, marks what is in flight
   └──► exhausted                     (retry schedule used up)
   └──► discarded                     (its endpoint was removed)
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import IntEnum, StrEnum
from typing import Final

from bridge.domain.frozen import frozen

RETRY_AFTER_MAX_S = 24 * 3600.0
_SECONDS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Delays between attempts in seconds; the first attempt is made at once.

    The default is the Standard Webhooks 1.0.0 example: ten attempts over about 75 hours.
    `jitter` is the share by which each delay may be shorter or longer.
    """

    delays_s: tuple[float, ...] = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    jitter: float = 0.2


def next_attempt_at(
    failures: int,
    *,
    now: datetime,
    schedule: RetrySchedule,
    retry_after_s: float | None = None,
    chance: random.Random | None = None,
) -> datetime | None:
    """When to try again after failed attempt number `failures` (the first is 1); None once the schedule is used up.

    A `Retry-After` that is longer than the delay replaces it, up to 24 h.
    """
    if failures > len(schedule.delays_s):
        return None
    spread = (chance or random).uniform(1 - schedule.jitter, 1 + schedule.jitter)
    delay_s = schedule.delays_s[failures - 1] * spread
    if retry_after_s is not None:
        delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_MAX_S))
    return now + timedelta(seconds=delay_s)


def parse_retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """The pause in seconds that `headers` (case-insensitive) ask for, at most 24 h; None if none can be read.

    A date is compared with the response's own `Date` if it has one, so that a wrong clock does no harm.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_S)
    then = _http_date(text)
    if then is None:
        return None
    pause_s = (then - (_http_date(headers.get("Date", "")) or now)).total_seconds()
    return min(pause_s, RETRY_AFTER_MAX_S) if pause_s >= 0 else None


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed  # -0000 parses as naive and means UTC


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    DISCARDED = "discarded"


class Lane(IntEnum):
    """The order in which the deliveries of one endpoint are served.

    AT_ONCE: requested by a person (a ping, a single retry); waits for no rest, pause or rate limit ·
    FRESH: never tried · AGAIN: retries and replays, which have a reserved share.
    """

    AT_ONCE = 0
    FRESH = 1
    AGAIN = 2


class Outcome(StrEnum):
    """The outcome of one attempt; the reasons of failure are classes of their own."""

    DELIVERED = "delivered"
    REDIRECT = "redirect"
    GONE = "gone"
    THROTTLED = "throttled"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    BLOCKED_ADDRESS = "blocked_address"
    PROTOCOL = "protocol"
    OVERSIZE = "oversize"
    UNSIGNED = "unsigned"  # its secret or headers cannot be read here; nothing was sent
    INTERRUPTED = "interrupted"


_REACH: Final = "is the receiver running at the endpoint's URL, and reachable from the daemon's machine?"
_REMEDIES: Final[Mapping[str, str]] = {
    Outcome.CONNECT: _REACH,
    Outcome.TIMEOUT: f"{_REACH} It must answer 2xx before it does the work",
    Outcome.DNS: "correct the host name in the endpoint's URL, or the daemon's resolver",
    Outcome.TLS: "renew the receiver's certificate, correct the host name, or let the daemon's machine trust its authority",
    Outcome.REDIRECT: "set the endpoint's URL to the address that it redirects to",
    Outcome.GONE: "the receiver answered 410; correct the endpoint's URL",
    Outcome.THROTTLED: "the receiver wants fewer; set the endpoint's rate_limit",
    Outcome.CLIENT_ERROR: "the receiver refuses; its log or the answer in `runbridge deliveries show ID` says why",
    Outcome.SERVER_ERROR: "the receiver fails; look at its log",
    Outcome.BLOCKED_ADDRESS: "`runbridge guard explain URL` names the rule and the line that allows it",
    Outcome.PROTOCOL: "what answers there is not an HTTP server; correct the endpoint's URL",
    Outcome.OVERSIZE: "the receiver's answer is too large; answer 2xx with a short body",
    Outcome.UNSIGNED: "its secret cannot be read; `runbridge doctor` says which key is missing",
}
_SIGNATURE: Final = (
    "the receiver refuses; check its signing secret, and the clocks of both machines (it refuses at 300 s); "
    "`runbridge verify` says what is wrong"
)
_STATUS_REMEDIES: Final[Mapping[int, str]] = {
    400: _SIGNATURE,
    401: _SIGNATURE,
    403: _SIGNATURE,
    404: "correct the path of the endpoint's URL",
    405: "correct the path of the endpoint's URL; it must take POST",
    413: "let the receiver take bodies of 256 KiB, or set `payload` of the endpoint to thin",
}


def remedy_for(outcome: str | None, status: int | None = None) -> str | None:
    """The remedy for attempts with this outcome; None if it is no failure of the receiver or of this daemon."""
    by_status = _STATUS_REMEDIES.get(status or 0) if outcome == Outcome.CLIENT_ERROR else None
    return by_status or _REMEDIES.get(outcome or "")


@frozen
class PostResult:
    """The result of one POST. Durations are in milliseconds; `head` is the first 8 KiB of the response body.

    `retry_after_s` is the pause that the receiver asks for; `detail` is a sentence for the operator, without secrets.
    `phases` holds dns, connect, tls and first_byte as far as they happened.
    """

    outcome: Outcome
    duration_ms: int
    status: int | None = None
    detail: str | None = None
    retry_after_s: float | None = None
    head: bytes = b""
    head_is_truncated: bool = False
    peer: str | None = None
    phases: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recorded POST. `next_attempt_at` is None if no automatic one follows."""

    id: str
    delivery_id: str
    number: int
    at: datetime
    answer: PostResult
    is_manual: bool
    next_attempt_at: datetime | None


@frozen
class Delivery:
    """One event for one endpoint. `attempts` counts finished attempts, `failures` those that used up a retry.

    `sequence` is that of its event in the run.
    """

    id: str
    event_id: str
    event_type: str
    endpoint_id: str
    run_id: str | None
    state: DeliveryState
    attempts: int
    failures: int
    created_at: datetime
    next_attempt_at: datetime | None
    settled_at: datetime | None
    last_outcome: Outcome | None
    last_status: int | None
    is_manual: bool = False
    lane: Lane = Lane.FRESH
    sequence: int | None = None


def state_after(
    failures: int, answer: PostResult, *, now: datetime, schedule: RetrySchedule, ends_when_gone: bool = False
) -> tuple[DeliveryState, datetime | None]:
    """State and next attempt of a delivery after `answer`, with `failures` failed attempts before it.

    `ends_when_gone`: a 410 exhausts this delivery because there is no endpoint to disable (a one-run webhook).
    """
    if answer.outcome is Outcome.DELIVERED:
        return DeliveryState.DELIVERED, None
    if answer.outcome is Outcome.GONE and ends_when_gone:
        return DeliveryState.EXHAUSTED, None
    again_at = next_attempt_at(failures + 1, now=now, schedule=schedule, retry_after_s=answer.retry_after_s)
    return (DeliveryState.EXHAUSTED, None) if again_at is None else (DeliveryState.PENDING, again_at)


STARTING_S: Final = 300.0
"""For so long after an event a receiver that has never answered may still be starting."""
STARTING_RETRY_S: Final = 10.0


def retry_while_starting(
    delivery: Delivery, answer: PostResult, again_at: datetime | None, *, now: datetime
) -> datetime | None:
    """When to try again, sooner than at `again_at`, in case the receiver is still starting; None if that is unlikely.

    Its address refused the connection or has no name yet. Such a retry comes beside those of the schedule.
    """
    if answer.outcome not in (Outcome.CONNECT, Outcome.DNS) or again_at is None:
        return None
    soon = now + timedelta(seconds=STARTING_RETRY_S)
    is_young = (now - delivery.created_at).total_seconds() < STARTING_S
    return soon if is_young and soon < again_at else None
