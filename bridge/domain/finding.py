"""The finding of a check of this installation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report; `is_good` is None for a remark."""

    is_good: bool | None
    what: str
    detail: str

    @property
    def result(self) -> str:
        """`ok`, `remark` or `wrong`."""
        return {True: "ok", None: "remark", False: "wrong"}[self.is_good]
