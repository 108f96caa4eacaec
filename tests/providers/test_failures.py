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
        {"message": "Missing Authentication Token"},  # AWS API Gateway
        {"code": 404, "message": "The current request is not defined by this API."},  # Google API Gateway
        {"error": {"code": "404", "message": "The page could not be found"}},  # Vercel
        {"error": {"code": "404", "message": "The deployment could not be found on Vercel."}},
        {"status": "error", "code": 404, "message": "Application not found", "request_id": "x"},  # Railway
        {"error_msg": "404 Route Not Found"},  # APISIX
        {"fault": {"faultstring": "Unable to identify proxy for host: default and url: /api/runs/r1"}},  # Apigee
        {"message": "No context-path matches the request URI.", "http_status_code": 404},  # Gravitee
        {"error": {"code": 404, "status": "Not Found", "message": "Requested url does not match any rules"}},  # Ory
        {"success": False, "errors": [{"code": 7003, "message": "Could not route to /api/runs/r1"}]},  # Cloudflare
        {"message": "Route GET:/api/runs/r1 not found", "error": "Not Found", "statusCode": 404},  # Fastify
        {"message": "The route api/runs/r1 could not be found."},  # Laravel
        {"code": "not_found", "message": "The requested URL was not found on the server.", "status": 404},  # Werkzeug
        {"detail": 'No route found for "GET /api/runs/r1"', "code": 404},  # Symfony
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
