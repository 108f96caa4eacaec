"""`runbridge providers new` and `try`: write a definition, and see it read a real answer."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bridge.cli.output import mark, print_facts, print_table, print_value, say, say_heading
from bridge.definitions.schema import NAME
from bridge.domain.connection import Connection
from bridge.domain.errors import BadPayload, BridgeError
from bridge.domain.observation import Observed
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.domain.strict_json import parse_json
from bridge.providers.defined import DefinedProvider
from bridge.providers.definition_draft import draft_of
from bridge.providers.definition_trial import Trial, masked, masked_address, masked_text, required_variables, try_once


def write_draft(name: str, answers: tuple[Path, ...], base_url: str, get: str, folder: Path) -> int:
    """Write `NAME/definition.toml` and its fixtures into `folder`; 0, or an error if there is one already."""
    if not re.fullmatch(NAME, name):
        raise click.UsageError(f"a provider's name is of a-z, 0-9 and `-`, not {name!r}")
    bodies = []
    for path in answers:
        try:
            bodies.append(parse_json(path.read_bytes()))
        except BadPayload as error:
            raise BridgeError(f"{path} is not JSON: {error}") from None
    draft = draft_of(name, bodies, base_url=base_url, get=get, checked=datetime.now(UTC).date().isoformat())
    place = folder / name
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        raise BridgeError(f"there is {place} already; choose another name, or remove it") from None
    file = place / "definition.toml"
    file.write_text(draft.text, encoding="utf-8")
    for word, fixture in draft.fixtures.items():
        (place / "fixtures").mkdir(exist_ok=True)
        text = json.dumps({**fixture, "body": masked(fixture["body"], frozenset())}, indent=2, ensure_ascii=False)
        (place / "fixtures" / f"{word}.json").write_text(text + "\n", encoding="utf-8")
    say(mark(is_good=True), f"{file}, with {len(draft.fixtures)} fixtures")
    for number, line in enumerate(draft.text.splitlines(), 1):
        if "TODO" in line:
            say(mark(None), f"{file}:{number}: {line.strip()}")
    say(f"  next: edit it, then `runbridge providers lint {place}` and `runbridge providers test {place}`")
    return 0


def print_trial(trial: Trial, *, as_json: bool) -> int:
    """Print what was sent and read; 0 if the run's status is known."""
    result, secrets = trial.result, trial.secrets
    seen = result.observation if isinstance(result, Observed) else None
    said = None if isinstance(result, Observed) else masked_text(result.message, secrets)
    remarks = list(result.remarks) if isinstance(result, Observed) else []
    pause_s = result.poll_after_s if isinstance(result, Observed) else result.retry_after_s
    next_poll = (
        f"the provider asks for {pause_s:g} s"
        if pause_s
        else "when the cadence decides; the provider asks for no pause"
    )
    if as_json:
        print_value(
            {
                "requests": [_exchange(one, secrets) for one in trial.exchanges],
                "values": [{"key": key, "path": path, "value": value} for key, path, value in trial.values()],
                "rule": trial.rule,
                "status": seen.status.value if seen else None,
                "provider_status": seen.provider_status if seen else None,
                "failure": said,
                "remarks": remarks,
                "poll_after_s": pause_s,
            }
        )
    else:
        for one in trial.exchanges:
            exchange = _exchange(one, secrets)
            say_heading(f"{exchange['method']} {exchange['address']}")
            print_facts((name, value) for name, value in exchange["headers"].items())
            if exchange["body"] is not None:
                print_facts([("body", json.dumps(exchange["body"], ensure_ascii=False))])
            say(f"HTTP {exchange['http']} in {one.seconds * 1000:.0f} ms" if exchange["http"] else "no answer")
        if seen:
            say_heading("read")
            print_table(("KEY", "PATH", "VALUE"), trial.values())
            say("")
        print_facts(
            [("status", f"{seen.status.value} ({seen.provider_status})" if seen else None), ("rule", trial.rule)]
        )
        if seen and seen.status is RunStatus.UNKNOWN and not trial.rule:
            say(mark(None), f"{seen.provider_status!r} is in no list of [status]: put it where it belongs")
        print_facts([("next poll", next_poll)])
        for remark in remarks:
            say(mark(None), remark)
        if said:
            say(mark(is_good=False), said)
    return 0 if seen and seen.status is not RunStatus.UNKNOWN else 1


def _exchange(one: Any, secrets: frozenset[str]) -> dict[str, Any]:
    return {
        "method": one.method,
        "address": masked_address(one.address, secrets),
        "headers": {name: masked_text(value, secrets) for name, value in one.headers.items()},
        "body": masked(one.body, secrets),
        "http": one.answer.status if one.answer else None,
    }


def run_trial(
    provider: DefinedProvider, run_id: str, key: str, base_url: str | None, variables: dict[str, str], timeout_s: float
) -> Trial:
    """Poll once. Raises BridgeError for what is missing or wrong before anything is sent."""
    definition = provider.definition
    faults = [f"--var {name}=… is missing: {definition.variables[name].get('about', 'a variable')}"
              for name in required_variables(provider, variables)]  # fmt: skip
    faults += [f"there is no variable {name}; known: {', '.join(definition.variables) or 'none'}"
               for name in variables if name not in definition.variables]  # fmt: skip
    if base_url is None and definition.base_url is None:
        faults.append("--base-url is missing: the definition leaves the address to the connection")
    if problem := provider.check_run_id(run_id):
        faults.append(f"--id {run_id!r}: {problem}")
    if not key and definition.tables.get("auth") != "none":
        faults.append("--key-file is missing: the definition sends a key")
    if faults:
        raise click.UsageError("; ".join(faults))
    connection = Connection(
        "try", provider.name, (base_url or definition.base_url or "").rstrip("/"), Secret(key or "-"),
        timeout_s=timeout_s, options=variables, definition=definition,
    )  # fmt: skip
    return asyncio.run(try_once(provider, connection, run_id))


def read_key(file: Path | None) -> str:
    """The key in a file, `-` for standard input; empty without one."""
    if file is None:
        return ""
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8", errors="replace")
    return text.strip()
