"""Retab's outputs: since its API dropped `final_outputs` they lie in the steps of a run."""

from __future__ import annotations

from typing import Final

from bridge.domain.observation import FailureKind, PollFailed
from bridge.domain.run import Json
from bridge.providers.base import JsonObject, first_told, object_or_empty, segment, text_of
from bridge.providers.http import ProviderFailure, ProviderHttp

_STEPS_PATH: Final = "/v1/workflows/steps"
_PAGES_MAX: Final = 500
_END_TYPES: Final = frozenset({"end", "output"})


async def fetch_steps(http: ProviderHttp, run_id: str) -> list[JsonObject]:
    """All steps of a run; where the present address is unknown, from the one of before May 2026.

    ProviderFailure if a page cannot be had, or if all of them together exceed the cap for one body.
    """
    try:
        return await _fetch_pages(http, _STEPS_PATH, [("run_id", run_id)])
    except ProviderFailure as failure:
        if failure.failed.kind is not FailureKind.NOT_FOUND:
            raise
    return await _fetch_pages(http, f"/v1/workflows/runs/{segment(run_id)}/steps", [])


def output_of_steps(steps: list[JsonObject]) -> Json:
    """What the run has produced, as `{block id: data}`; None if no step has JSON to show.

    If blocks of type `end` or `output` have some, only theirs; else that of every completed block but the
    start ones, whose outputs are the run's inputs. A block with several JSON handles becomes `{handle: data}`,
    one that ran several times (a loop) a list in the order of the steps. Files are left out.
    """
    told = [(step, data) for step in steps if _is_completed(step) for data in _json_outputs(step)]
    ends = [(step, data) for step, data in told if text_of(_block_type(step)) in _END_TYPES]
    by_block: dict[str, list[Json]] = {}
    for step, data in ends or told:
        block = text_of(first_told(step.get("block_id"), step.get("node_id"), step.get("step_id")))
        by_block.setdefault(block or "unnamed", []).append(data)
    return {block: found[0] if len(found) == 1 else found for block, found in by_block.items()} or None


async def _fetch_pages(http: ProviderHttp, path: str, query: list[tuple[str, str]]) -> list[JsonObject]:
    steps: list[JsonObject] = []
    after: str | None = None
    room = http.body_bytes_max
    for _ in range(_PAGES_MAX):
        answer = await http.request("GET", path, query=[*query, *([("after", after)] if after else [])])
        room -= len(answer.data)
        page = _items(answer.body)
        if page is None or room < 0:
            said = "the answer is no list of steps" if page is None else "the steps are too large"
            raise ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, f"GET {path}: {said}", answer.status))
        before = after
        after = text_of(object_or_empty(object_or_empty(answer.body).get("list_metadata")).get("after"))
        if after is not None and after == before:
            break  # a server that ignores the cursor sends the same page for ever
        steps += [step for step in page if isinstance(step, dict)]
        if after is None:
            break
    return steps


def _items(body: Json) -> list[Json] | None:
    items = first_told(body.get("data"), body.get("steps")) if isinstance(body, dict) else body
    return items if isinstance(items, list) else None


def _is_completed(step: JsonObject) -> bool:
    lifecycle = object_or_empty(step.get("lifecycle"))
    word = first_told(lifecycle.get("status"), lifecycle.get("kind"), step.get("status"))
    return word == "completed" and not (text_of(_block_type(step)) or "").startswith("start")


def _block_type(step: JsonObject) -> Json:
    return first_told(step.get("block_type"), step.get("node_type"))


def _json_outputs(step: JsonObject) -> list[Json]:
    """The step's JSON as a list of one, or of none."""
    handles = {
        name: handle["data"]
        for name, handle in object_or_empty(step.get("handle_outputs")).items()
        if isinstance(handle, dict) and handle.get("type", "json") == "json" and handle.get("data") is not None
    }
    if handles:
        return [handles if len(handles) > 1 else next(iter(handles.values()))]
    flat = step.get("output")  # the oldest shape
    return [] if flat is None else [flat]
