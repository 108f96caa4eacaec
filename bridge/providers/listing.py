"""Reading a page of a provider's list of runs, for the providers that have one.

A run in the list is read by the same `normalise` as a run by itself; one that cannot be read spoils only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bridge.domain.errors import BadPayload
from bridge.domain.observation import FailureKind, ListedRun, Observation, PollFailed, RunPage
from bridge.domain.run import Json
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import JsonObject, check_id, text_of
from bridge.providers.http import ProviderFailure, ProviderHttp

PAGE_RUNS: Final = 100  # Retab's maximum; Instabase tells none
TIMEOUT_S: Final = 10.0  # a list that takes longer observes nothing any sooner


async def fetch_page(
    http: ProviderHttp,
    path: str,
    query: Sequence[tuple[str, str]],
    *,
    key: str,
    normalise: Callable[[JsonObject], Observation],
    is_whole: Callable[[JsonObject], bool],
    cursor_after: Callable[[JsonObject, int], str | None],
) -> RunPage:
    """GET one page whose runs stand in `key`; ProviderFailure if it cannot be had or is no page.

    `is_whole` tells whether a run is told as fully as by itself, `cursor_after` where the next page begins, given
    the answer and the number of runs in it.
    """
    answer = await http.request("GET", path, query=query, timeout_s=TIMEOUT_S)
    items = answer.body.get(key) if isinstance(answer.body, dict) else None
    if not isinstance(answer.body, dict) or not isinstance(items, list):
        message = f"GET {path}: the answer is no list of runs"
        raise ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message, answer.status))
    return RunPage(
        runs=tuple(run for item in items if (run := _listed(item, normalise, is_whole)) is not None),
        next_cursor=cursor_after(answer.body, len(items)),
        poll_after_s=answer.poll_after_s,
        answered_at=provider_instant(answer.headers.get("date")),
    )


def _listed(
    item: Json, normalise: Callable[[JsonObject], Observation], is_whole: Callable[[JsonObject], bool]
) -> ListedRun | None:
    run_id = text_of(item.get("id")) if isinstance(item, dict) else None
    if not isinstance(item, dict) or run_id is None or check_id(run_id) is not None:
        return None
    try:
        return ListedRun(run_id, normalise(item), needs_detail=not is_whole(item))
    except BadPayload:
        return ListedRun(run_id, None, needs_detail=True)
