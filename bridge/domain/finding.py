"""The finding of a check of this installation, and a setting in effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RESULTS: Final = {True: "ok", None: "remark", False: "wrong"}
IS_GOOD: Final = {result: is_good for is_good, result in RESULTS.items()}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report; `is_good` is None for a remark."""

    is_good: bool | None
    what: str
    detail: str

    @property
    def result(self) -> str:
        """`ok`, `remark` or `wrong`."""
        return RESULTS[self.is_good]


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting: dotted key, value as text with secrets masked, and `default`, `file:PATH`, `env:NAME` or `flag`."""

    key: str
    value: str
    origin: str
