"""What an answer means: the rules of `[[answer]]`, the pauses of `[pace]`, and what marks an answer for the next poll."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.domain.definitions.expressions import ExpressionFailed, is_true, search
from bridge.domain.observation import LastResponse, Observation
from bridge.domain.run import Json
from bridge.providers.base import etag_of
from bridge.providers.definition_requests import pause_s, until_s
from bridge.providers.failures import error_text

_MODIFIED: Final = "Last-Modified: "  # marks one that is kept in the place of an ETag


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: code, headers, and the body where it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Json


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an answer means by a rule or by default; `pause_s` is what the provider asks for."""

    means: str
    pause_s: float | None = None
    rule: str = ""
    remarks: tuple[str, ...] = ()


def meaning_of(tables: Mapping[str, Any], answer: Answer) -> Meaning:
    """What an answer means: the first [[answer]] that fits, else `ok` without a rule."""
    remarks: list[str] = []
    for number, rule in enumerate(tables.get("answer", ())):
        if _fits(rule, answer, remarks, f"answer[{number}].if"):
            pause = None
            if "until" in rule:
                pause = until_s(rule["until"], answer.headers, answer.body)
            elif "after" in rule:
                pause = pause_s(rule["after"], answer.headers, answer.body)
            return Meaning(rule["means"], pause, f"answer[{number}]", tuple(remarks))
    return Meaning("ok", remarks=tuple(remarks))


def hint_of(tables: Mapping[str, Any], answer: Answer) -> float | None:
    """The first pause, in seconds, that [pace] finds in an answer."""
    hints = (pause_s(hint, answer.headers, answer.body) for hint in tables.get("pace", {}).get("hint", ()))
    return next((found for found in hints if found is not None), None)


def _fits(rule: Mapping[str, Any], answer: Answer, remarks: list[str], key: str) -> bool:
    """Whether code, headers and condition of a rule fit an answer."""
    if "http" in rule:
        codes = rule["http"] if isinstance(rule["http"], list) else [rule["http"]]
        if not any(code == answer.status or code == f"{answer.status // 100}xx" for code in codes):
            return False
    for name, value in rule.get("header", {}).items():
        if (answer.headers.get(name) or "").strip() != value:
            return False
    if "if" not in rule:
        return True
    if answer.body is None:
        return False
    try:
        return is_true(search(rule["if"])(answer.body))
    except ExpressionFailed as failed:
        remarks.append(f"{key}: {failed}")
        return False


def condition_for(last: LastResponse) -> dict[str, str]:
    """The header that asks for a change only."""
    if last.etag is None:
        return {}
    if last.etag.startswith(_MODIFIED):
        return {"If-Modified-Since": last.etag.removeprefix(_MODIFIED)}
    return {"If-None-Match": last.etag}


def mark_of(headers: Mapping[str, str]) -> str | None:
    """The ETag, else the Last-Modified behind its own mark."""
    modified = headers.get("last-modified", "").strip()
    return etag_of(headers) or (f"{_MODIFIED}{modified}" if 0 < len(modified) < 100 and modified.isascii() else None)


def is_error(body: Json, seen: Observation) -> bool:
    """Whether a body without a status is an error document: it says what is wrong and shows nothing of a run."""
    said, _ = error_text(body)
    shows = (seen.output, seen.progress, seen.created_at, seen.started_at, seen.finished_at, seen.workflow_id)
    return said is not None and all(one is None for one in shows)
