"""The limits of one credential: a request rate learned from refusals, and a number in flight learned from latency.

    rate       doubles every 2 seconds of full use until the first 429, then creeps up to where it was last refused;
               slow accounts count in requests, fast ones in seconds, so that refusals stay few for both
    pause      a 429 stops the whole provider for its Retry-After, or for longer with each refusal in a row; only the
               first of a row lowers the rate, so that an outage full of 429s costs no more than one refusal
    per second a rate from the configuration holds in every second: unused allowance is no reason to exceed it
    in flight  as many as the rate needs at the present latency (Little's law), halved by timeouts

Pure state: every instant is a reading of the monotonic clock in seconds, handed in.
"""

from __future__ import annotations

import json
import math
from collections import deque
from typing import Final

RATE_FIRST: Final = 10.0  # requests per second, until something was learned
RATE_MIN, RATE_MAX = 0.05, 200.0
RECALLED_MIN: Final = 1.0  # a lower rate, left by an outage full of 429s, is not recalled after a restart
STEP_UNREFUSED, SHARE_UNREFUSED = 0.4, 0.04  # per success, before any refusal: requests per second, share of the rate
STEP_BELOW, STEP_NEAR = 0.05, 0.01  # requests per second and second: below, and near, the rate that was refused …
SHARE_BELOW, SHARE_NEAR = 0.01, 0.0003  # … but at most this share of the rate per success …
# … and at least this share per second, so that a rate that was cut far too deep recovers within minutes.
GROWTH_UNREFUSED, GROWTH_BELOW, GROWTH_NEAR = 0.07, 0.007, 0.002
GROWTH_SPAN_S: Final = 20.0  # the longest gap between successes that counts as growth time
NEAR, PAST = 0.95, 1.05  # of the refused rate; what is past it was no limit
SAME: Final = 0.2  # a refusal within this share of the one before confirms it, and growth near it slows down …
CONFIRMED_MAX: Final = 9  # … by one part for each of so many
CUT: Final = 0.8
CUT_AT_ONCE, FEW = 0.5, 4  # after fewer successes than this a refusal means far too fast, not a little …
ACCEPTED_KEPT: Final = 8  # … but a cut goes no lower than `CUT` times the rate of the last so many successes
BURST_S: Final = 1.0  # unused allowance is kept for this long
COUNTED_RATE_MAX: Final = 1000.0  # higher rates are not counted second by second
PAUSE_S: Final = 1.0  # after a refusal without Retry-After, doubled by each further one without a success …
PAUSE_MAX_S: Final = 15.0  # … up to this
IN_USE_S: Final = 0.2  # the rate counts as used when a request leaves this soon after it may
IN_FLIGHT_MIN: Final = 2
IN_FLIGHT_MAX: Final = 64
LATENCIES_KEPT: Final = 64
HEADROOM: Final = 1.5  # over rate × p95 latency


class RateLimit:
    """When the next request may leave. A rate that is known (requests per second) is never changed."""

    def __init__(self, known_rate: float | None = None) -> None:
        self.is_known = known_rate is not None
        self._whole_rate = known_rate
        self._counts_seconds = known_rate is not None and known_rate <= COUNTED_RATE_MAX
        self._sent: deque[float] = deque(maxlen=math.ceil(known_rate or 0) if self._counts_seconds else 0)
        """The latest second's requests, where the rate is known."""
        self._share = 1.0
        self.rate = known_rate or RATE_FIRST
        self._refused_rate: float | None = None
        self._free_at = 0.0
        self._paused_until = 0.0
        self.asked_until = 0.0
        """The end of the pause that the provider asked for; a restart must keep it too."""
        self._is_used = False
        self._successes = FEW  # since the last refusal
        self._accepted: deque[float] = deque(maxlen=ACCEPTED_KEPT)  # when the last successes were answered
        self._refusals = 0  # since the last success
        self._confirmed = 0  # refusals in a row at about the same rate, without the first
        self._refused_at = -math.inf
        self._grown_at = -math.inf

    def dump(self) -> str:
        """The whole limit as learned, as JSON for the next start."""
        refused = None if self._refused_rate is None else self._refused_rate / self._share
        return json.dumps({"rate": round(self.rate / self._share, 3), "refused": refused})

    def recall(self, text: str | None) -> None:
        """Go on from what `dump` returned; ignored where the text is missing or not ours."""
        try:
            state = json.loads(text or "")
            rate, refused = float(state["rate"]), state["refused"]
            refused = None if refused is None else float(refused)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return
        if not self.is_known and all(RECALLED_MIN <= each <= RATE_MAX for each in (rate, refused or rate)):
            self.rate, self._refused_rate = rate * self._share, refused and refused * self._share

    @property
    def opens_at(self) -> float:
        """The reading of the monotonic clock from which a request may leave."""
        return max(self._free_at, self._paused_until)

    @property
    def _full_until(self) -> float:
        """Until then a request would exceed a known rate in the last second.

        A rate with a fraction is rounded up, and its second is longer in proportion.
        """
        allowed = math.ceil(self.rate)
        if not self._counts_seconds or len(self._sent) < allowed:
            return -math.inf
        return self._sent[-allowed] + allowed / self.rate

    def take_share(self, share: float) -> None:
        """Use this share of the rate. A learned rate falls with the share, but does not rise with it."""
        if self._whole_rate is not None:
            self.rate = self._whole_rate * share
        elif share < self._share:
            self.rate = max(self.rate * share / self._share, RATE_MIN)
        if self._refused_rate is not None:
            self._refused_rate *= share / self._share
        self._share = share

    def take(self, now: float) -> None:
        """Count a request that leaves now."""
        if not self.is_known:  # what waits for a pause to end does not use the rate
            self._is_used = self._free_at > self._paused_until and now - self._free_at < IN_USE_S
        self._free_at = max(self._free_at, now - BURST_S) + 1 / self.rate
        if self._counts_seconds:
            self._sent.append(now)
            self._free_at = max(self._free_at, self._full_until)  # one by one after a burst, not burst after burst

    def succeed(self, now: float, *, sent_at: float) -> None:
        """Learn from a request that was answered without complaint; the rate grows only while it is really used."""
        if sent_at < self._refused_at:
            return  # it left before the refusal, and says nothing about the rate since then
        self._refusals = 0
        if self.is_known:
            return
        self._successes += 1
        self._accepted.append(now)
        since_s, self._grown_at = min(now - self._grown_at, GROWTH_SPAN_S), now
        if self._is_used:
            self.rate = min(self.rate + self._growth(since_s), RATE_MAX * self._share)

    def _growth(self, since_s: float) -> float:
        """Requests per second to add after a success, `since_s` seconds after the one before."""
        rate, refused = self.rate, self._refused_rate
        if refused is not None and rate > PAST * refused:
            refused = self._refused_rate = None
            self._confirmed = 0
        if refused is None:
            return max(min(STEP_UNREFUSED, SHARE_UNREFUSED * rate), GROWTH_UNREFUSED * since_s * rate)
        if rate < NEAR * refused:
            return max(min(STEP_BELOW / rate, SHARE_BELOW * rate), GROWTH_BELOW * since_s * rate)
        growth = GROWTH_NEAR / (1 + min(self._confirmed, CONFIRMED_MAX))
        return max(min(STEP_NEAR / rate, SHARE_NEAR * rate), growth * since_s * rate)

    def refuse(self, now: float, *, sent_at: float, retry_after_s: float | None = None) -> None:
        """Learn from a 429 (or a 503 with Retry-After): every request waits, and the rate falls.

        Requests that left before the pause began belong to the same mistake: they lower the rate once. A row of
        refusals without a success is one piece of evidence too: the first one lowers the rate, the others only
        lengthen the pause.
        """
        if sent_at >= self._paused_until:
            if self._successes and not self.is_known:
                self._learn_refusal(now)
            self._successes = 0
            self._refusals += 1
            self._refused_at = now
        pause_s = min(PAUSE_S * 2.0 ** (min(self._refusals, 16) - 1), PAUSE_MAX_S)
        if retry_after_s is not None:
            self.keep_asked(now, retry_after_s)
        if retry_after_s is None or (retry_after_s < PAUSE_S and self._refusals > 1):  # it did not help
            self.pause(now, pause_s)

    def _learn_refusal(self, now: float) -> None:
        refused, accepted = self._refused_rate, 0.0
        is_confirmed = refused is not None and abs(self.rate / refused - 1) < SAME
        self._confirmed = self._confirmed + 1 if is_confirmed else 0
        self._refused_rate = self.rate
        if len(self._accepted) == ACCEPTED_KEPT and now > self._accepted[0]:
            accepted = min(ACCEPTED_KEPT / (now - self._accepted[0]), self.rate)
        cut = self.rate * (CUT if self._successes >= FEW else CUT_AT_ONCE)
        self.rate = max(cut, CUT * accepted, RATE_MIN)

    def explain(self, now: float) -> str:
        """Where the rate comes from and when it grows, as a sentence for people."""
        if self.is_known:
            return "requests_per_second in the configuration sets it; it does not change"
        if self._refusals:
            times = "once" if self._refusals == 1 else f"{self._refusals} times in a row"
            wait_s = max(self.opens_at - now, 0.0)
            return f"learned; the provider refused (429) {times}; the next request goes in {wait_s:.0f} s"
        if self._refused_rate is None:
            return "learned; no refusal (429) limits it, and it grows while all of it is used"
        ago_s = max(now - self._refused_at, 0.0)
        since = f", {ago_s:.0f} s ago" if math.isfinite(ago_s) else ""
        return (
            f"learned; the provider refused (429) {self._refused_rate:.3g} requests per second{since}; "
            "it grows while all of it is used, slowly near that rate"
        )

    def pause(self, now: float, seconds: float) -> None:
        """Let no request leave for `seconds`; a longer pause stays. No allowance is saved up during it."""
        self._paused_until = max(self._paused_until, now + max(seconds, 0.0))
        self._free_at = max(self._free_at, self._paused_until)

    def keep_asked(self, now: float, seconds: float) -> None:
        """Pause as the provider has asked, in this process or before its start."""
        self.pause(now, seconds)
        self.asked_until = max(self.asked_until, now + seconds)

    def end_pause(self, now: float) -> None:
        """End the pause: requests may leave at once."""
        self.asked_until = min(self.asked_until, now)
        self._paused_until = min(self._paused_until, now)
        self._free_at = max(min(self._free_at, now), self._full_until)


class InFlightLimit:
    """The number of requests that may be under way at once. A known number is never changed."""

    def __init__(self, known: int | None = None) -> None:
        self.known = known
        self._here = known
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._ceiling = float(IN_FLIGHT_MAX)

    def limit(self, rate: float) -> int:
        """The number allowed at this request rate (per second)."""
        if self._here is not None:
            return self._here
        wanted = math.ceil(rate * self._slow_latency_s() * HEADROOM)
        return max(min(wanted, int(self._ceiling)), IN_FLIGHT_MIN)

    def take_share(self, place: int, sharers: int) -> None:
        """Use the part of a known number that falls to the node at `place` (from 0) of `sharers`; the parts add up to it."""
        if self.known is not None:
            self._here = self.known // sharers + (1 if place < self.known % sharers else 0)

    def succeed(self, latency_s: float) -> None:
        """Learn from an answer that came after `latency_s`; a ceiling set by timeouts rises by one for every full round."""
        if self.known is None:
            self._latencies_s.append(latency_s)
            self._ceiling = min(self._ceiling + 1 / self._ceiling, IN_FLIGHT_MAX)

    def time_out(self, in_flight: int) -> None:
        """Halve the ceiling because a request timed out while `in_flight` were under way."""
        self._ceiling = max(min(self._ceiling, in_flight / 2), float(IN_FLIGHT_MIN))

    def _slow_latency_s(self) -> float:
        """The p95 of the latest latencies; a guess of one second before the first."""
        if not self._latencies_s:
            return 1.0
        ordered = sorted(self._latencies_s)
        return ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]
