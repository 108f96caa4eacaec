"""The cost of a definition: of reading one answer, beside the hand-written Python; of checking a file; of loading 500.

Python's time on this thread, the best of several rounds. `make bench` does not include it: it takes some seconds.
"""

from __future__ import annotations

import json
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bridge.config.definitions import find_definitions
from bridge.domain.definitions.check import faults_in
from bridge.domain.strict_json import parse_json
from bridge.providers import dibby, instabase
from bridge.providers.definition_reader import DefinitionReader

ROUNDS: Final = 7
READS: Final = 5_000
FILES: Final = 500
DIBBY: Final = """
schema = 1
name = "dibby"
base_url = "https://dibby.ai/api"
[run]
get = "/runs/{id}"
[read]
status = "status"
id = "id"
output = { path = "output", decode = "json" }
error = "error"
progress = { completed = "stepsCompleted", total = "steps" }
created_at = "createdAt"
[status]
case = "ignore"
queued = ["pending"]
running = ["running"]
succeeded = ["finished"]
failed = ["failed"]
"""
INSTABASE: Final = """
schema = 1
name = "instabase"
base_url = "https://aihub.instabase.com/api"
[run]
get = "/v2/apps/runs/{id}"
[read]
status = "status"
id = "id"
workflow = ["deployment_id", "app_id"]
error = "msg"
started_at = { path = "start_timestamp", time = "ns" }
finished_at = { path = "finish_timestamp", time = "ns" }
[status]
case = "ignore"
running = ["running"]
waiting = ["paused", "stopped_at_checkpoint"]
succeeded = ["complete"]
failed = ["failed"]
cancelled = ["cancelled"]
[output]
get = "/v2/apps/runs/{id}/results"
when = ["succeeded"]
"""
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
    for name, text, code in (("dibby", DIBBY, dibby.normalise), ("instabase", INSTABASE, instabase.normalise)):
        body, reader = json.loads(BODIES[name]), DefinitionReader(tomllib.loads(text))
        assert reader.read(body).observation.status is code(body).status
        by_code = best_us(lambda code=code, body=body: code(body), READS)  # type: ignore[misc]
        by_file = best_us(lambda reader=reader, body=body: reader.read(body), READS)  # type: ignore[misc]
        parse = best_us(lambda name=name: parse_json(BODIES[name]), READS)  # type: ignore[misc]
        ratio = (parse + by_file) / (parse + by_code)
        print(
            f"{name}: {by_code:.1f} us in Python, {by_file:.1f} us by definition; with {parse:.1f} us to parse: x{ratio:.2f}"
        )
    tables = tomllib.loads(INSTABASE)
    print(f"check of one definition: {best_us(lambda: list(faults_in(tables)), 20) / 1000:.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FILES):
            text = INSTABASE.replace('name = "instabase"', f'name = "p{number}"')
            (Path(folder) / f"p{number}.toml").write_text(text)
        started = time.thread_time()
        assert not find_definitions(Path(folder)).mistakes
        print(f"{FILES} definitions: {time.thread_time() - started:.2f} s")


if __name__ == "__main__":
    main()
