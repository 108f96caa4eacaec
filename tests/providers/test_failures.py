"""Classification of answers that show no run: a gateway's, the provider's own, or a text."""

from __future__ import annotations

import pytest

from bridge.domain.failure import FailureKind
from bridge.domain.observation import PollFailed
from bridge.providers import REGISTRY
from tests.support.foreign_server import answering
from tests.support.provider_http import provider_against

NAMES = ("dibby", "dify", "instabase", "retab")
UUID = "fb47b2e6-5e43-4f90-be01-d5c5a088d156"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        {"message": "no Route matched with those values"},
        {"message": "Cannot GET /api/runs/r1", "error": "Not Found", "statusCode": 404},
        {"detail": "Not Found"},
        {"timestamp": "2026-01-15T10:30:00Z", "status": 404, "error": "Not Found", "path": "/api/runs/r1"},
        {"status": 404, "error": "Not Found", "path": "/api/runs/r1"},
        {"statusCode": 404, "message": "Resource not found"},
        {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "No static resource api/runs/r1."},
        {"kind": "Status", "message": "the server could not find the requested resource", "code": 404},
    ],
)
async def test_a_404_about_the_address_is_not_about_a_run(name, body):
    """Behind a wrong base_url every run was `lost` a minute after its registration."""
    async with provider_against(answering(body, status=404), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert result.kind is FailureKind.GATEWAY
    assert result.message.count("wrong base_url") == 1


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("retab", {"detail": "Workflow run not found"}),
        ("dify", {"code": "not_found", "message": "Workflow run not found", "status": 404}),
        ("dibby", {"message": "Not Found"}),
        ("dibby", {"error": "not found"}),
        ("instabase", {"timestamp": 1, "status": 404, "error": "Not Found", "message": "no run", "path": "/v2"}),
    ],
)
async def test_a_404_about_a_run_is_the_providers_own(name, body):
    async with provider_against(answering(body, status=404), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert result.kind is FailureKind.NOT_FOUND


@pytest.mark.parametrize("name", NAMES)
async def test_a_text_instead_of_a_run_is_not_called_an_error(name):
    async with provider_against(answering("FINISHED"), name) as (http, _):
        result = await REGISTRY[name].fetch_run(http, UUID)
    assert isinstance(result, PollFailed)
    assert "HTTP 200 with a text instead of a run: FINISHED" in result.message
