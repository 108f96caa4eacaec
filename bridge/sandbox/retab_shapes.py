"""Retab's bodies in the three generations its API has had.

a  until 2026-05-08   `status`, steps and final_outputs inside the run, `waiting_for_human`
b  May 2026           `lifecycle.kind`, `workflow: {…}`, `waiting_for_human`
c  since then         `lifecycle.status`, `awaiting_review`; for a while with ids nested (`c-nested`)
"""

from __future__ import annotations

from datetime import datetime

from bridge.domain.run import Json, RunError, RunStatus
from bridge.domain.timestamps import format_instant
from bridge.sandbox.scenarios import RunSnapshot
from bridge.sandbox.state import SandboxRun

START_BLOCK, OUTPUT_BLOCK, END_NODE = "start_json-1", "extract-1", "end-1"


def run_body(run: SandboxRun, snapshot: RunSnapshot) -> dict[str, Json]:
    """The run object in the generation of the run."""
    match run.shape:
        case "a":
            return _flat(run, snapshot)
        case "b":
            workflow: Json = {
                "workflow_id": run.workflow_id,
                "snapshot_id": f"snap_{run.id[-10:]}",
                "name_at_run_time": "Invoice Processing",
            }
            return {"id": run.id, "workflow": workflow, **_newer(run, snapshot, "kind", "waiting_for_human")}
        case "c-nested":
            nested: Json = {"workflow_id": run.workflow_id, "version_id": _version_id(run)}
            return {"id": run.id, "workflow": nested, **_newer(run, snapshot, "status", "awaiting_review")}
        case _:
            ids: dict[str, Json] = {"workflow_id": run.workflow_id, "workflow_version_id": _version_id(run)}
            return {"id": run.id, **ids, **_newer(run, snapshot, "status", "awaiting_review")}


def step_bodies(run: SandboxRun, snapshot: RunSnapshot) -> list[dict[str, Json]]:
    """The steps of a run in generation c: one for each part of the scenario; the last one has the output."""
    return [_step(run, snapshot, number) for number in range(run.scenario.parts)]


def flat_steps(run: SandboxRun, snapshot: RunSnapshot) -> list[Json]:
    """The steps inside a generation a run."""
    names = [("start-1", "start", "Input"), (OUTPUT_BLOCK, "extract", "Extract Data"), (END_NODE, "end", "Output")]
    done = snapshot.status is RunStatus.SUCCEEDED
    return [
        {
            "node_id": node_id,
            "node_type": node_type,
            "node_label": label,
            "status": "completed" if done or node_type == "start" else "running",
            "started_at": _text(run.instant(snapshot.started_after_s)),
            "completed_at": _text(run.instant(snapshot.finished_after_s)),
            "duration_ms": _duration_ms(snapshot),
            **({"output": run.scenario.output} if done and node_type == "extract" else {}),
        }
        for node_id, node_type, label in names
    ]


def _newer(run: SandboxRun, snapshot: RunSnapshot, tag: str, review_word: str) -> dict[str, Json]:
    timing: dict[str, Json] = {
        "created_at": _text(run.created_at),
        "started_at": _text(run.instant(snapshot.started_after_s)),
        "completed_at": _text(run.instant(snapshot.finished_after_s)),
    }
    if run.shape == "b":
        timing["duration_ms"] = _duration_ms(snapshot)
    return {
        "trigger": {"type": "api"},
        "lifecycle": _lifecycle(run, snapshot, tag, review_word),
        "timing": timing,
        "inputs": {"documents": {}, "json_data": run.inputs},
        "metadata": dict(run.metadata) if run.metadata else None,
    }


def _lifecycle(run: SandboxRun, snapshot: RunSnapshot, tag: str, review_word: str) -> dict[str, Json]:
    match snapshot.status:
        case RunStatus.WAITING:
            key = "waiting_for_block_ids" if tag == "status" else "waiting_for_node_ids"
            return {tag: review_word, key: ["review-1"]}
        case RunStatus.FAILED:
            error = run.scenario.error or RunError("Workflow execution failed")
            return {
                tag: snapshot.word,
                "message": error.message,
                "stage": "execution",
                "category": "permanent",
                "details": {"message": error.message, "block_name": error.step, "error_code": error.code},
                "failing_step_id": f"{run.id}_{OUTPUT_BLOCK}",
            }
        case RunStatus.CANCELLED:
            return {tag: snapshot.word, "reason": run.scenario.error.message if run.scenario.error else None}
        case _:
            return {tag: snapshot.word}


def _flat(run: SandboxRun, snapshot: RunSnapshot) -> dict[str, Json]:
    is_waiting, is_done = snapshot.status is RunStatus.WAITING, snapshot.status is RunStatus.SUCCEEDED
    end: Json = {END_NODE: {"label": "Output", "json_data": run.scenario.output}}
    error = run.scenario.error if snapshot.status in (RunStatus.FAILED, RunStatus.CANCELLED) else None
    return {
        "id": run.id,
        "workflow_id": run.workflow_id,
        "workflow_name": "Invoice Processing",
        "organization_id": "org_sandbox",
        "status": "waiting_for_human" if is_waiting else snapshot.word,
        "trigger_type": "api",
        "started_at": _text(run.instant(snapshot.started_after_s)),
        "completed_at": _text(run.instant(snapshot.finished_after_s)),
        "duration_ms": _duration_ms(snapshot),
        "steps": flat_steps(run, snapshot),
        "input_json_data": run.inputs,
        "final_outputs": end if is_done and run.scenario.output is not None else None,
        "error": error.message if error else None,
        "created_at": _text(run.created_at),
        "updated_at": _text(run.instant(snapshot.finished_after_s or snapshot.started_after_s or 0)),
        "waiting_for_node_ids": ["review-1"] if is_waiting else [],
    }


def _step(run: SandboxRun, snapshot: RunSnapshot, number: int) -> dict[str, Json]:
    is_last, is_reached = number == run.scenario.parts - 1, number < snapshot.completed
    block_id = OUTPUT_BLOCK if is_last else START_BLOCK if number == 0 else f"function-{number}"
    outputs: Json = {}
    if is_last and is_reached and run.scenario.output is not None:
        outputs = {"output-json-0": {"type": "json", "document": None, "data": run.scenario.output}}
    return {
        "block_id": block_id,
        "step_id": f"{run.id}_{block_id}",
        "block_type": block_id.rpartition("-")[0],
        "block_label": block_id,
        "lifecycle": {"status": "completed" if is_reached else "pending"},
        "started_at": _text(run.instant(snapshot.started_after_s)) if is_reached else None,
        "completed_at": _text(run.instant(snapshot.finished_after_s)) if is_reached else None,
        "model": None,
        "loop_containers": [],
        "run_id": run.id,
        "created_at": _text(run.created_at),
        "handle_inputs": {},
        "handle_outputs": outputs,
        "artifact": None,
        "retry_count": 0,
    }


def _version_id(run: SandboxRun) -> str:
    return f"ver_{run.workflow_id.rpartition('_')[2]}"


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else format_instant(instant)


def _duration_ms(snapshot: RunSnapshot) -> int | None:
    if snapshot.started_after_s is None or snapshot.finished_after_s is None:
        return None
    return round((snapshot.finished_after_s - snapshot.started_after_s) * 1000)
