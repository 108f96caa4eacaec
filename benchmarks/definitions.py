"""The cost of a definition: of reading one answer, beside the hand-written Python; of checking a file; of loading 500.

Python's time on this thread, the best of several rounds. `make bench` does not include it: it takes some seconds.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bridge.definitions.check import faults_in
from bridge.definitions.files import BUILT_IN, Definitions, built_in
from bridge.domain.observation import Observation
from bridge.domain.run import RunStatus
from bridge.domain.strict_json import parse_json
from bridge.domain.timestamps import provider_instant
from bridge.providers.definition_reader import DefinitionReader
from bridge.providers.fields import (
    JsonObject,
    error_of,
    first_not_null,
    progress_of,
    short_text,
    status_of,
    unpack_json,
)

ROUNDS: Final = 7
READS: Final = 5_000
FILES: Final = 500


def dibby_by_hand(payload: JsonObject) -> Observation:
    """Dibby's answer as Python read it before there was a definition."""
    status, word = status_of(payload.get("status"), _DIBBY)
    return Observation(
        status=status,
        provider_status=word,
        progress=progress_of(payload.get("stepsCompleted"), payload.get("steps")),
        output=unpack_json(payload.get("output")),
        error=error_of(payload.get("error")),
        created_at=provider_instant(payload.get("createdAt")),
    )


def instabase_by_hand(payload: JsonObject) -> Observation:
    """Instabase's answer as Python read it before there was a definition."""
    status, word = status_of(payload.get("status"), _INSTABASE)
    return Observation(
        status=status,
        provider_status=word,
        workflow_id=short_text(first_not_null(payload.get("deployment_id"), payload.get("app_id"))),
        error=error_of(payload.get("msg")) if status in {RunStatus.FAILED, RunStatus.CANCELLED} else None,
        started_at=provider_instant(payload.get("start_timestamp")),
        finished_at=provider_instant(payload.get("finish_timestamp")),
        output_is_elsewhere=status is RunStatus.SUCCEEDED,
    )


_DIBBY: Final = {
    "pending": RunStatus.QUEUED,
    "running": RunStatus.RUNNING,
    "finished": RunStatus.SUCCEEDED,
    "failed": RunStatus.FAILED,
}
_INSTABASE: Final = {
    "running": RunStatus.RUNNING,
    "paused": RunStatus.WAITING,
    "stopped_at_checkpoint": RunStatus.WAITING,
    "complete": RunStatus.SUCCEEDED,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}
BY_HAND: Final = {"dibby": dibby_by_hand, "instabase": instabase_by_hand}
BODIES: Final = {
    "dibby": b'{"id":"r1","status":"RUNNING","createdAt":"2025-01-15T10:30:00Z","steps":5,"stepsCompleted":2}',
    "instabase": b'{"id":"r1","status":"FAILED","msg":"bad page","deployment_id":"d","app_id":null,'
    b'"start_timestamp":1736937000000000000,"finish_timestamp":1736937060000000000}',
}


def best_us(call: Callable[[], object], times: int) -> float:
    """Microseconds of one call, in the best of ROUNDS rounds of `times` calls."""
    found = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for _ in range(times):
            call()
        found.append((time.thread_time() - started) / times * 1e6)
    return min(found)


def main() -> None:
    """Print the table."""
    for name, code in BY_HAND.items():
        body, reader = json.loads(BODIES[name]), DefinitionReader(built_in(name).tables)
        assert reader.read(body).observation.status is code(body).status
        by_code = best_us(lambda code=code, body=body: code(body), READS)  # type: ignore[misc]
        by_file = best_us(lambda reader=reader, body=body: reader.read(body), READS)  # type: ignore[misc]
        parse = best_us(lambda name=name: parse_json(BODIES[name]), READS)  # type: ignore[misc]
        ratio = (parse + by_file) / (parse + by_code)
        print(
            f"{name}: {by_code:.1f} us in Python, {by_file:.1f} us by definition; with {parse:.1f} us to parse: x{ratio:.2f}"
        )
    text = (BUILT_IN / "instabase/definition.toml").read_text()
    tables = tomllib.loads(text)
    print(f"check of one definition: {best_us(lambda: list(faults_in(tables)), 20) / 1000:.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FILES):
            (Path(folder) / f"p{number}.toml").write_text(re.sub(r'"instabase"', f'"p{number}"', text, count=1))
        started = time.thread_time()
        assert not Definitions(Path(folder)).mistakes
        print(f"{FILES} definitions: {time.thread_time() - started:.2f} s")


if __name__ == "__main__":
    main()
