"""What the receiver was sent, and what it can answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bridge.domain.run import Json


class ReplyKind(StrEnum):
    """What happens to a POST: it gets an answer, no answer ever, or a connection that breaks."""

    ANSWER = "answer"
    HANG = "hang"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the script. `delay_s` passes first; `headers` hold `Location`, `Retry-After` and the like."""

    status: int = 204
    kind: ReplyKind = ReplyKind.ANSWER
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """One POST that arrived. Header names are lower-case; `status` is the answer, None for hang and drop."""

    at: datetime
    path: str
    headers: dict[str, str]
    body: bytes
    verified: bool
    status: int | None

    @property
    def id(self) -> str:
        """The event id as the headers tell it."""
        return self.headers.get("webhook-id", "")

    @property
    def event(self) -> dict[str, Json]:
        """The body as JSON; empty if it is not an object."""
        try:
            event = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return event if isinstance(event, dict) else {}

    @property
    def type(self) -> str:
        """The event type."""
        return str(self.event.get("type", ""))
