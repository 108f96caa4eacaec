"""The client of one connection: its HTTP requests, its limiter and its health.

    ok ──(401; 403 twice in a row; five failures in a row over 15 s)──► failing ──(answers about runs)──► ok

Then the connection sends one probe at a time, ever more rarely. It is also failing, without probes, when its polls have
brought hardly anything readable for more than a minute, whatever the kind of trouble. It is ok again when half of the
latest polls can be read: one readable answer among many unreadable ones does not end the trouble.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from bridge.domain.clock import Clock, SystemClock
from bridge.domain.connection import Connection, ConnectionHealth, KeyCheck
from bridge.domain.failure import FailureKind, LastError
from bridge.domain.limits.fair_limiter import Candidate, FairRateLimiter
from bridge.domain.observation import LastResponse, Observed, PollFailed, PollResult, RunPage
from bridge.domain.run import Json, Run, RunStatus
from bridge.polling.trouble import LATEST_MAX, MissingRuns, Unreadable
from bridge.providers import open_http, provider_of
from bridge.providers.base import Triggered
from bridge.providers.http import ProviderFailure, ProviderSessions
from bridge.providers.key_check import check_key
from bridge.runtime.loop import REST_MAX_S, Bell

log = structlog.get_logger()
FAILURES_MIN, FAILING_SPAN_S = 5, 15.0
REFUSALS_MIN = 2  # of 403, which may be about one run only
PROBE_FIRST_S, PROBE_MAX_S = 10.0, 120.0
ALL_RUNS: Final = 1_000_000
OUTPUT_TIMEOUT_S = 5.0  # for the request; before it the output waits for its turn at the limit
OUTPUT_WORTH, OUTPUT_LATE_WORTH = 3.0, 8.0  # seconds of delay per second that an output waits; the second near the end
REMARKS_MAX = 50  # of a connection, the oldest go
TURN_REST_S = 0.05  # while another request has its turn


@dataclass(frozen=True, slots=True)
class Remark:
    """When something was last found that could not be read, and how often."""

    at: datetime
    count: int


class ConnectionClient:
    """Sends the requests of one connection and judges its health."""

    def __init__(
        self,
        connection: Connection,
        sessions: ProviderSessions,
        *,
        health: ConnectionHealth,
        limiter: FairRateLimiter | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Pass `limiter` where several connections share one credential; `health` is what the database says."""
        self.connection = connection
        self.provider = provider_of(connection)
        self.limiter = limiter or FairRateLimiter(connection.requests_per_second, connection.max_in_flight)
        self.health = self.recorded_health = health
        self.reason: str | None = None
        self.is_probing = health is ConnectionHealth.FAILING
        """Whether only one request at a time goes, to find out whether the connection answers again."""
        self.last_error: LastError | None = None
        self._clock = clock or SystemClock()
        self.unreadable = Unreadable()
        self._sessions = sessions
        self._http = open_http(sessions, connection, self.provider)
        self.last_check: KeyCheck | None = None
        self.last_list_at: datetime | None = None
        self._failures = 0
        self._refusals = 0
        self._failing_from = 0.0
        self._judged_at = -math.inf
        self._probes = 0
        self.remarks: dict[str, Remark] = {}
        """Remarks about what the definition could not read or evaluate in answers, by sentence."""
        self._one_output = asyncio.Lock()  # the one that waits longest competes for the next request
        self._runs_to_poll = 0
        self.missing_runs = MissingRuns()

    async def poll(self, run: Run, last: LastResponse | None, *, sent_at: float, runs_held: int) -> PollResult:
        """Poll a run once and judge the result; `last` is the response that showed the run as it is.

        The limiter has counted the request, at `sent_at`, and gets its slot back whatever happens.
        """
        try:
            result = await self.provider.fetch_run(self._http, run.provider_run_id, last)
        except BaseException:  # cancelled when the daemon ends, or broken
            self.limiter.give_up()
            raise
        now = self._clock.monotonic()
        if isinstance(result, Observed):
            self.missing_runs.note_found(run.id, now)
        elif result.kind is FailureKind.NOT_FOUND and self.missing_runs.note_missing(
            run.id, now, was_found=run.observed_at is not None
        ):
            message = f"{result.message}; no run is found any more: check base_url and the key's account"
            result = replace(result, kind=FailureKind.GATEWAY, message=message)
        self.judge(result, sent_at=sent_at, now=now, runs_held=runs_held, run_id=run.id)
        return result

    def is_to_complete(self, seen: Observed) -> bool:
        """Whether the observation lacks its output or has remarks."""
        found = seen.observation
        return bool(seen.remarks) or found.output_is_elsewhere or found.status is RunStatus.UNKNOWN

    async def complete(self, run: Run, seen: Observed) -> Observed:
        """The observation with its output, if that needs a second request; without it if that request fails."""
        word, is_known = seen.observation.provider_status, seen.observation.status is not RunStatus.UNKNOWN
        new_words = () if is_known or seen.remarks else (f"the status {word!r} is not known",)
        for said in (*seen.remarks, *new_words):
            self._note_remark(said, run.id, word if new_words else None)
        if seen.observation.output_is_elsewhere and self.connection.fetch_output:
            return await self._with_output(run, seen)
        return seen

    async def list_runs(self, *, since: datetime, cursor: str | None = None) -> RunPage:
        """One page of the provider's list. Raises ProviderFailure."""
        page = await self.provider.list_runs(self._http, since=since, cursor=cursor)
        self.last_list_at = self._clock.now()
        if page.remark is not None:
            self._note_remark(page.remark, None, None)
        return page

    async def _with_output(self, run: Run, seen: Observed) -> Observed:
        """Fetch the output when its turn comes among the polls; polls that are worth more go first."""
        waits_since, wait_s = self._clock.monotonic(), self.connection.output_wait_s
        try:
            if self.limiter.rate_limit.opens_at - waits_since > wait_s:
                raise TimeoutError("the provider asked for a longer pause")
            async with asyncio.timeout(wait_s), self._one_output:
                late_s = max(wait_s - 2 * OUTPUT_TIMEOUT_S, wait_s / 2)
                await self.take_turn("outputs", lambda now: _worth_of_output(now - waits_since, late_s))
            output = await self._fetch_output(run.provider_run_id)
        except (ProviderFailure, TimeoutError) as error:
            log.warning("output.missed", connection=self.connection.name, run_id=run.id, reason=str(error) or "timeout")
            is_unusable = isinstance(error, ProviderFailure) and error.failed.kind is FailureKind.BAD_PAYLOAD
            return replace(seen, observation=replace(seen.observation, output_truncated=is_unusable))
        return replace(seen, observation=replace(seen.observation, output=output))

    async def _fetch_output(self, provider_run_id: str) -> Json:
        sent_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(OUTPUT_TIMEOUT_S):
                output = await self.provider.fetch_output(self._http, provider_run_id)
        except ProviderFailure as failure:
            self.pace(failure.failed, sent_at=sent_at, now=self._clock.monotonic())
            raise
        except BaseException:
            self.limiter.give_up()
            raise
        self.limiter.answer(self._clock.monotonic(), sent_at=sent_at)
        return output

    async def take_turn(self, purpose: str, worth_s: Callable[[float], float]) -> None:
        """Wait for the turn of a request that follows from another, and count it.

        It competes with the polls at `worth_s(now)`, seconds of delay, and at its price at least. One request per
        `purpose` may wait at a time.
        """
        tenant, price_s, bell = f"{self.connection.name} {purpose}", self.connection.cadence.price_s, Bell()
        try:
            while True:
                now = self._clock.monotonic()
                candidate = Candidate(tenant, max(worth_s(now), price_s), price_s, tenant)
                self.limiter.call_when_open(candidate, bell.ring)
                wait_s = self.limiter.opens_at() - now
                if wait_s <= 0 and self.limiter.admit([candidate], now=now, is_scarce=True):
                    break
                await bell.wait(min(max(wait_s, TURN_REST_S), REST_MAX_S))
            self.limiter.send(now, tenant)
        finally:
            self.limiter.forget(tenant)

    def _note_remark(self, said: str, run_id: str | None, word: str | None) -> None:
        """Keep a remark, and log it the first time."""
        known = self.remarks.get(said)
        self.remarks[said] = Remark(self._clock.now(), known.count + 1 if known else 1)
        if known is not None:
            return
        if len(self.remarks) > REMARKS_MAX:
            del self.remarks[min(self.remarks, key=lambda one: self.remarks[one].at)]
        name = self.connection.name
        if word is not None:
            log.warning("run.status_unmapped", connection=name, provider_status=word)
        else:
            definition = self.connection.definition
            version = definition and f"{definition.name} {definition.version}"
            log.warning("definition.unread", connection=name, definition=version, run_id=run_id, reason=said)

    async def trigger(self, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """Start a run at the provider. Raises ProviderRefused or ProviderFailure."""
        return await self.provider.trigger(self._http, workflow_id, inputs, extra)

    async def cancel(self, run: Run) -> None:
        """Cancel a run at the provider. Raises Unsupported where that is not possible."""
        await self.provider.cancel(self._http, run.provider_run_id, run.provider_ref)

    async def check(self) -> KeyCheck:
        """Make one authenticated call, and the same with a wrong key; the limiter and the health take no note."""
        started = self._clock.monotonic()
        is_good, said = await check_key(self.provider, self.connection, self._http, self._sessions)
        duration_ms = round((self._clock.monotonic() - started) * 1000)
        self.last_check = KeyCheck(is_good=is_good, detail=said, at=self._clock.now(), duration_ms=duration_ms)
        return self.last_check

    def judge(
        self, result: PollResult | RunPage, *, sent_at: float, now: float, runs_held: int, run_id: str | None = None
    ) -> None:
        """Take in the effect of a poll or a list on the limits and the health, and end its request for the limiter.

        Times are monotonic. A 404 is an answer like any other: the connection works.
        """
        self.pace(result, sent_at=sent_at, now=now)
        if not isinstance(result, PollFailed) or result.kind is FailureKind.NOT_FOUND:
            self._answered(now, run_id)
            return
        self._note_unreadable(result, run_id, sent_at)
        match result.kind:
            case FailureKind.UNAUTHORIZED:
                self._refusals += 1
                if result.status == 401 or self._refusals >= REFUSALS_MIN or runs_held <= 1:
                    self._failed(result.message, sent_at=sent_at, now=now)
            case FailureKind.THROTTLED | FailureKind.REJECTED | FailureKind.BAD_PAYLOAD:
                pass  # about the rate or perhaps about this run: `judge_unreadable` decides
            case _:
                self._faltered(result, sent_at=sent_at, now=now)

    def pace(self, result: PollResult | RunPage, *, sent_at: float, now: float) -> None:
        """Take in the effect of a result on the limits alone, and end its request for the limiter."""
        if not isinstance(result, PollFailed):
            self.limiter.answer(now, sent_at=sent_at)
            return
        match result.kind:
            case FailureKind.SERVER_ERROR if result.retry_after_s is None:
                self.limiter.give_up()
            case FailureKind.THROTTLED | FailureKind.SERVER_ERROR:
                self.limiter.refuse(now, sent_at=sent_at, retry_after_s=result.retry_after_s)
            case FailureKind.TIMEOUT:
                self.limiter.time_out()
            case FailureKind.CONNECT | FailureKind.TLS | FailureKind.DNS | FailureKind.TRANSPORT:
                self.limiter.give_up()
            case _:
                self.limiter.answer(now, sent_at=sent_at)

    def _answered(self, now: float, run_id: str | None) -> None:
        had_failed = self._failures >= FAILURES_MIN or self.health is ConnectionHealth.FAILING
        self._failures = self._refusals = self._probes = 0
        self.last_error = None
        self.unreadable.note_read(run_id)
        if self.is_probing:
            self.limiter.rate_limit.end_pause(now)
        self.is_probing = False
        is_over = self.unreadable.error is None
        if had_failed:
            self._runs_to_poll = ALL_RUNS if is_over else LATEST_MAX
        if is_over or self.health is ConnectionHealth.UNKNOWN:
            self.health, self.reason = ConnectionHealth.OK, None

    def _faltered(self, result: PollFailed, *, sent_at: float, now: float) -> None:
        self._failures += 1
        if self._failures == 1:
            self._failing_from = now
        if self.is_probing or (self._failures >= FAILURES_MIN and now - self._failing_from >= FAILING_SPAN_S):
            self._failed(result.message, sent_at=sent_at, now=now)

    def _failed(self, reason: str, *, sent_at: float, now: float) -> None:
        if self.is_probing and sent_at < self._judged_at:
            return  # sent before the last verdict: it was no probe, and does not lengthen the pause
        self._judged_at = now
        self.limiter.rate_limit.pause(now, min(PROBE_FIRST_S * 2.0**self._probes, PROBE_MAX_S))
        self._probes = min(self._probes + 1, 10)
        self.is_probing = True
        self._turn_failing(reason)

    def _note_unreadable(self, failed: PollFailed, run_id: str | None, sent_at: float) -> None:
        self.unreadable.note_failed(failed, run_id, sent_at)
        count = self.last_error.count + 1 if self.last_error else 1
        self.last_error = LastError(self._clock.now(), failed.kind, failed.message, count)

    def judge_unreadable(self, now: float, *, runs_held: int) -> None:
        """Turn failing if hardly any poll could be read for `UNREADABLE_S`.

        Failures that may concern one run alone must have struck two, where two are held.
        """
        error = self.unreadable.error
        if error is not None and self.unreadable.is_trouble(now, runs_held):
            self._turn_failing(error.message)

    def forget_run(self, run_id: str) -> None:
        """Forget a run that is not polled here any more."""
        self.missing_runs.forget(run_id)
        self.unreadable.forget(run_id)

    def _turn_failing(self, reason: str) -> None:
        if self.health is not ConnectionHealth.FAILING:
            self.health, self.reason = ConnectionHealth.FAILING, reason

    @property
    def has_recovered(self) -> bool:
        """Whether the connection has begun to answer again since `take_recovery` was last called."""
        return self._runs_to_poll > 0

    def take_recovery(self) -> int:
        """The number of runs to poll at once, because the connection has begun to answer since the last call."""
        count, self._runs_to_poll = self._runs_to_poll, 0
        return count

    def opens_in_s(self, now: float) -> float:
        """Seconds until a poll may go, 0 at once; only one probe at a time."""
        if self.is_probing and self.limiter.in_flight:
            return float("inf")
        return max(0.0, self.limiter.opens_at() - now)


def _worth_of_output(waited_s: float, late_s: float) -> float:
    """Seconds of delay that the request is worth: its event is late for certain, a poll's perhaps."""
    return waited_s * (OUTPUT_WORTH if waited_s < late_s else OUTPUT_LATE_WORTH)
