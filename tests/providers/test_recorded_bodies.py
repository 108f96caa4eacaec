"""Every recorded body beside this file, read over HTTP, is the observation that stands with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bridge.domain.connection import Connection
from bridge.domain.observation import Observation, Observed, PollFailed
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.providers import REGISTRY, dify, open_http, retab
from bridge.providers.http import ProviderSessions
from tests.support.foreign_server import answering, foreign_server
from tests.support.provider_http import words_of

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*/*.json"))
RUN_ID = "fb47b2e6-5e43-4f90-be01-d5c5a088d156"
STATUSES = {
    "dibby": words_of(REGISTRY["dibby"]),
    "dify": dify.STATUSES,
    "instabase": words_of(REGISTRY["instabase"]),
    "retab": retab.STATUSES,
}
NOTHING_TOLD = asdict(Observation(RunStatus.UNKNOWN, ""))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_a_recorded_body_becomes_the_observation_written_beside_it(path):
    case = json.loads(path.read_text())
    provider = REGISTRY[path.parent.name]
    told = case["body"].get("id") if isinstance(case["body"], dict) else None
    async with foreign_server(answering(case["body"])) as server, ProviderSessions() as sessions:
        connection = Connection("c", provider.name, server.url, Secret("key-123456"))
        result = await provider.fetch_run(open_http(sessions, connection), str(told or RUN_ID))
    if "failure" in case:
        assert isinstance(result, PollFailed), case["why"]
        assert result.kind == case["failure"], case["why"]
    else:
        assert isinstance(result, Observed), result
        assert asdict(result.observation) == NOTHING_TOLD | case["expected"], case["why"]


@pytest.mark.parametrize("name", sorted(STATUSES))
def test_every_status_word_of_a_provider_has_a_recorded_body(name):
    expected = [json.loads(path.read_text()).get("expected") for path in CASES if path.parent.name == name]
    recorded = {case["provider_status"].strip().lower(): case["status"] for case in expected if case}
    assert recorded.items() >= STATUSES[name].items()


@pytest.mark.parametrize("name", sorted(STATUSES))
def test_a_provider_has_no_status_of_the_bridges_own_making(name):
    assert not {RunStatus.EXPIRED, RunStatus.LOST, RunStatus.UNKNOWN} & set(STATUSES[name].values())
