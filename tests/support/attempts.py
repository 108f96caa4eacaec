"""Outcomes of posts, for tests that need a delivery's history."""

from __future__ import annotations

from bridge.domain.delivery import Outcome, PostResult


def failed_attempt(head: bytes = b"no \xff thanks") -> PostResult:
    """A receiver that answered with an error."""
    return PostResult(
        Outcome.SERVER_ERROR,
        duration_ms=31,
        status=500,
        detail="the receiver answered 500",
        head=head,
        peer="192.0.2.7:443",
        phases={"connect": 4, "first_byte": 30},
    )
