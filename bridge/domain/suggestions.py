"""Help with misspelled input: the closest known word, and paths as a person writes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

_ENDINGS: Final = frozenset(
    [
        "done",
        "complete",
        "completed",
        "end",
        "ended",
        "settled",
        "success",
        "succeeded",
        "fail",
        "failed",
        "failure",
        "error",
        "cancelled",
        "canceled",
    ]
)
"""Names that others use for the end of a run; here the event is run.finished whatever the outcome."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The member of `known` that means `word` or is spelled most like it, if one is close enough."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    of, _, ending = word.lower().rpartition(".")
    if "run.finished" in by_lower and of in ("run", "workflow", "job", "") and ending in _ENDINGS:
        return by_lower["run.finished"]
    found = difflib.get_close_matches(word[:200].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def unknown(what: str, word: str, known: Sequence[str]) -> str:
    """A sentence for an unknown word that names the closest known one, or else all of them."""
    meant = closest(word, known)
    if meant:
        return f"unknown {what}; did you mean `{meant}`?"
    return f"unknown {what}; known: {', '.join(sorted(known)) or 'none'}"


def dotted(parts: Iterable[object]) -> str:
    """A path as a person writes it: `webhook.events[0]`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
