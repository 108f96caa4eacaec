"""Read the fields of a provider's JSON: ids, status, progress, errors, outputs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeGuard
from urllib.parse import quote

from bridge.domain.errors import BadPayload
from bridge.domain.ids import is_same_run_id
from bridge.domain.run import Json, Progress, RunError, RunStatus
from bridge.domain.strict_json import parse_json_text

RUN_ID_CHARS_MAX: Final = 512
WORD_CHARS_MAX: Final = 200
ERROR_CHARS_MAX: Final = 4000
_COUNT_MAX: Final = 2**53
_WEB_ADDRESS: Final = re.compile(r"https?://[^\s\x00-\x1f\x7f]{1,2000}", re.IGNORECASE)

JsonObject = dict[str, Json]


class NoSuchRun(BadPayload):
    """The body has the form of a run and means that the run does not exist."""


def check_same_run(found: Json, provider_run_id: str) -> None:
    """Raise BadPayload if `found` is the id of another run than `provider_run_id`; anything but an id passes."""
    run_id = id_of(found)
    if run_id is not None and not is_same_run_id(run_id, provider_run_id):
        raise BadPayload(f"the answer is about another run, {run_id[:100]!r}")


@lru_cache(maxsize=1024)
def path_segment(text: str) -> str:
    """`text` percent-encoded as one path segment."""
    return quote(text, safe="", errors="replace")


def check_id(provider_run_id: str) -> str | None:
    """Why no provider can have such a run id, as a sentence; None if one can."""
    if not 1 <= len(provider_run_id) <= RUN_ID_CHARS_MAX:
        return f"a run id has 1 to {RUN_ID_CHARS_MAX} characters"
    if not provider_run_id.isprintable():  # also refuses lone surrogates, which no URL can hold
        return "a run id holds no control characters"
    if provider_run_id in (".", ".."):
        return "a run id is more than dots"
    return None


def status_of(word: Json, table: Mapping[str, RunStatus]) -> tuple[RunStatus, str]:
    """The canonical status and the provider's own word; an unknown word is `RunStatus.UNKNOWN`.

    Case and surrounding blanks do not matter. Raises BadPayload if there is no word.
    """
    if not isinstance(word, str) or not word.strip():
        raise BadPayload("the answer has no status")
    return table.get(word.strip().lower(), RunStatus.UNKNOWN), word[:WORD_CHARS_MAX]


def json_object(value: Json) -> JsonObject:
    """`value` if it is an object. Raises BadPayload otherwise."""
    if not isinstance(value, dict):
        raise BadPayload("the answer is not a JSON object")
    return value


def object_or_empty(value: Json) -> JsonObject:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_of(value: Json) -> str | None:
    """A string as it is, an integer as its digits; None for blanks and everything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def id_of(value: Json) -> str | None:
    """As `text_of`; also an integer that is written as `5.0`."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _COUNT_MAX
    return str(int(value)) if isinstance(value, float) and is_whole else text_of(value)


def link_of(value: Json) -> str | None:
    """An address that a browser may be led to; None for any other value, a script for example."""
    return value if isinstance(value, str) and _WEB_ADDRESS.fullmatch(value) else None


def first_not_null(*values: Json) -> Json:
    """The first value that is not null; None if all are."""
    return next((value for value in values if value is not None), None)


def unpack_json(value: Json) -> Json:
    """The object or list that is given as JSON text; any other value is returned unchanged.

    Text such as `1.10`, `null` or `"x"` stays text: as a number it would lose digits, and it may well be meant as text.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return parse_json_text(value)
    except BadPayload:
        return value


def progress_of(completed: Json, total: Json) -> Progress | None:
    """Progress from two counts, including 0 of 0; None unless both are finite and not negative."""
    return Progress(completed, total) if _is_count(completed) and _is_count(total) else None


def error_of(value: Json) -> RunError | None:
    """A provider's error: text, an object with a message, or anything else as its JSON; None for what is empty."""
    if not value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return RunError(value[:ERROR_CHARS_MAX])
    if not isinstance(value, dict):
        return RunError(json.dumps(value, ensure_ascii=False)[:ERROR_CHARS_MAX])
    message = text_of(value.get("message")) or json.dumps(value, ensure_ascii=False)
    return RunError(message[:ERROR_CHARS_MAX], short_text(value.get("code")), short_text(value.get("step")))


def short_text(value: Json) -> str | None:
    """A name or code, cut to `WORD_CHARS_MAX`."""
    text = text_of(value)
    return text and text[:WORD_CHARS_MAX]


def _is_count(value: Json) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 <= value <= _COUNT_MAX
