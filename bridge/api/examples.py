"""One example of each body, for the OpenAPI document; the tests hold it against its schema."""

from __future__ import annotations

from typing import Any, Final

from bridge.domain.endpoint import EndpointSettings
from bridge.domain.event import EventType

_PROVIDER_RUN_ID = "fb47b2e6-5e43-4f90-be01-d5c5a088d156"
_RUN_DATA: dict[str, Any] = {
    "id": "run_01m80qxc9tkdbtdn8mx9zntb32",
    "connection": "dify",
    "provider": "dify",
    "provider_run_id": _PROVIDER_RUN_ID,
    "workflow_id": "translate",
    "status": "succeeded",
    "provider_status": "succeeded",
    "settled": True,
    "progress": None,
    "output": {"result": "Bonjour"},
    "output_truncated": False,
    "error": None,
    "created_at": "2026-01-15T10:30:00Z",
    "started_at": None,
    "finished_at": "2026-01-15T10:30:04Z",
    "registered_at": "2026-01-15T10:30:00.310Z",
    "observed_at": "2026-01-15T10:30:05.112Z",
    "metadata": {"order": 4711},
    "tags": [],
}
_RUN: dict[str, Any] = {
    **_RUN_DATA,
    "polls": 4,
    "last_polled_at": "2026-01-15T10:30:05.112Z",
    "next_poll_at": None,
    "next_poll_reason": None,
    "last_error": None,
    "deadline_at": "2026-02-14T10:30:00.310Z",
    "overdue": False,
    "link": None,
}
_NEW_RUN: dict[str, Any] = {
    **_RUN,
    **dict.fromkeys(("provider_status", "output", "created_at", "finished_at", "observed_at", "last_polled_at")),
    "status": "queued",
    "settled": False,
    "polls": 0,
    "next_poll_at": "2026-01-15T10:30:00.310Z",
}
_EVENT: dict[str, Any] = {
    "id": "evt_01m80qxg929a8jkhy4n571jyyk",
    "type": "run.finished",
    "timestamp": "2026-01-15T10:30:05.120Z",
    "data": {"sequence": 2, "previous_status": "running", "run": _RUN_DATA},
}
_WINDOW: dict[str, Any] = {"delivered": 2, "failed": 0, "success_rate": 1.0, "p50_ms": 12, "p95_ms": 18}
_STATS: dict[str, Any] = {
    "hour": _WINDOW,
    "day": _WINDOW,
    "sampled_since": None,
    "pending": 0,
    "oldest_due_at": None,
    "last_answer": {"at": "2026-01-15T10:30:05.134Z", "outcome": "delivered", "status": 204, "detail": None},
}
_ENDPOINT: dict[str, Any] = {
    "id": "ep_01m80qx4z8c1j2m5r7t9v0w3xy",
    "source": "api",
    **EndpointSettings(
        url="https://app.example.org/hooks",
        events=(EventType.RUN_FINISHED,),
        filter="data.run.status == 'failed'",
    ).model_dump(mode="json"),
    "public_keys": [],
    "run_id": None,
    "enabled": True,
    "disabled_reason": None,
    "failing_since": None,
    "paused_until": None,
    "created_at": "2026-01-15T10:00:00.000Z",
    "old_secret_until": None,
    "filter_errors": 0,
    "stats": _STATS,
}
_SECRET: Final = "whsec_Wm9sZiBCb3hrw6RtcGZlciBqYWd0ZW4gVmlrdG9y"  # noqa: S105 - an example
_DELIVERY: dict[str, Any] = {
    "id": "dlv_01m80qxg92kx3v6q8s0u2w4y6z",
    "event_id": _EVENT["id"],
    "event_type": "run.finished",
    "endpoint_id": _ENDPOINT["id"],
    "run_id": _RUN["id"],
    "state": "delivered",
    "attempt_count": 1,
    "failure_count": 0,
    "created_at": "2026-01-15T10:30:05.120Z",
    "next_attempt_at": None,
    "settled_at": "2026-01-15T10:30:05.146Z",
    "last_outcome": "delivered",
    "last_status": 204,
    "manual": False,
    "attempts": [
        {
            "number": 1,
            "at": "2026-01-15T10:30:05.134Z",
            "outcome": "delivered",
            "status": 204,
            "duration_ms": 12,
            "detail": None,
            "peer": "203.0.113.7:443",
            "phases": {"dns": 1, "connect": 2, "tls": 4, "first_byte": 12},
            "response": None,
            "truncated": False,
            "manual": False,
            "next_attempt_at": None,
            "request_headers": None,
        }
    ],
}
_REPLAY: dict[str, Any] = {
    "id": "rpl_01m80r0a3b5c7d9f1g3h5j7k9m",
    "endpoint_id": _ENDPOINT["id"],
    "state": "running",
    "count": 120,
    "replayed": 40,
    "rate": 50,
    "since": "2026-01-14T00:00:00.000Z",
    "until": None,
    "types": ["run.finished"],
    "status": "missed",
    "created_at": "2026-01-15T11:00:00.000Z",
    "finished_at": None,
}
_CONNECTION: dict[str, Any] = {
    "name": "dify",
    "provider": "dify",
    "base_url": "https://api.dify.ai/v1",
    "health": "ok",
    "reason": None,
    "since": "2026-01-15T10:00:00.000Z",
    "last_error": None,
    "last_check": None,
    "last_list_at": "2026-01-15T10:30:01.250Z",
    "definition": None,
    "remarks": [],
    "limits": {"requests_per_second": None, "max_in_flight": None},
    "cadence": {
        "price": "500ms", "target_delay": None, "min_interval": "250ms", "max_interval": "5m", "deadline": "30d"
    },
    "state": {"requests_per_second": 10.0, "limit_is_learned": True, "in_flight": 0},
}  # fmt: skip
_SESSION: dict[str, Any] = {
    "id": None, "token": "api_token", "scope": "admin", "read_only": False, "created_at": None, "expires_at": None,
    "version": "0.1.0",
}  # fmt: skip
_SESSION_ROW: dict[str, Any] = {
    "id": "ses_01m80r2c4d6e8f0g2h4j6k8m0n",
    "token": "api_token",
    "created_at": "2026-01-15T10:00:00.000Z",
    "last_used_at": "2026-01-15T10:30:00.000Z",
    "expires_at": "2026-01-15T11:30:00.000Z",
}
_NODE: dict[str, Any] = {
    "id": "node_01m80qwz0a2b4c6d8f0g2h4j6k",
    "host": "app-1",
    "pid": 4711,
    "version": "0.1.0",
    "started_at": "2026-01-15T10:00:00.000Z",
    "lease_expires_at": None,
    "alive": True,
    "runs": 3,
    "deliveries": 0,
}
_RUN_BODY: dict[str, Any] = {
    "connection": "dify",
    "provider_run_id": _PROVIDER_RUN_ID,
    "workflow_id": "translate",
    "metadata": {"order": 4711},
}
_COUNTS = {"succeeded": 1}


def _page(*items: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(items), "next_cursor": None}


EXAMPLES: Final[dict[str, Any]] = {
    "RunBody": _RUN_BODY,
    "BatchBody": {"runs": [_RUN_BODY]},
    "RunAnswer": _RUN,
    "RegisteredRun": _NEW_RUN,
    "RunInFull": {
        **_RUN,
        "recent_polls": ["2026-01-15T10:30:02.105Z", "2026-01-15T10:30:05.112Z"],
        "transitions": [
            {"at": "2026-01-15T10:30:05.112Z", "from": "running", "to": "succeeded", "provider_status": "succeeded"}
        ],
        "events": [_EVENT],
        "definition": None,
    },
    "RunList": _page(_RUN),
    "BatchAnswer": {"data": [{"status": 201, "run": _NEW_RUN}]},
    "EventAnswer": _EVENT,
    "EventList": {"data": [_EVENT], "next_cursor": _EVENT["id"]},
    "EventReplayBody": {"endpoint": _ENDPOINT["id"]},
    "EventReplayAnswer": {"deliveries": [_DELIVERY["id"]]},
    "EndpointBody": {"url": _ENDPOINT["url"], "events": ["run.finished"], "filter": _ENDPOINT["filter"]},
    "EndpointPatch": {"filter": None, "ordered": True},
    "EndpointAnswer": _ENDPOINT,
    "NewEndpoint": {**_ENDPOINT, "secret": _SECRET},
    "EndpointList": _page(_ENDPOINT),
    "FilterTestBody": {"filter": "data.run.status == 'failed'", "limit": 10},
    "FilterTest": {
        "data": [
            {
                "event_id": _EVENT["id"],
                "type": "run.finished",
                "run_id": _RUN["id"],
                "created_at": _EVENT["timestamp"],
                "matches": False,
                "error": None,
            }
        ],
        "matched": 0,
        "failed": 0,
    },
    "RotateBody": {"overlap": "2h"},
    "DeliveriesBulkBody": {"state": "exhausted", "endpoint": "my-app", "dry_run": True},
    "RunsBulkBody": {"connection": "dify-prod", "tag": "nightly"},
    "BulkCount": {"count": 42, "is_exact": True},
    "BulkAnswer": {"count": 41, "skipped": 1, "errors": [], "next_cursor": None},
    "NewSecret": {
        "id": _ENDPOINT["id"], "secret": _SECRET, "public_key": None, "old_until": "2026-01-16T10:30:00.000Z"
    },
    "PingAnswer": {"event_id": _EVENT["id"]},
    "EndpointReplayBody": {"since": "2026-01-14T00:00:00Z", "status": "missed", "dry_run": True},
    "ReplayCount": {"count": 120},
    "ReplayAnswer": _REPLAY,
    "ReplayList": _page(_REPLAY),
    "DeliveryAnswer": _DELIVERY,
    "DeliveryList": _page(_DELIVERY),
    "ConnectionInFull": _CONNECTION,
    "ConnectionList": _page(_CONNECTION),
    "CheckAnswer": {
        "ok": True,
        "result": "ok",
        "detail": "https://api.dify.ai/v1 takes the key and refuses a wrong one",
        "at": "2026-01-15T10:30:05.120Z",
        "duration_ms": 84,
    },
    "NoBody": {},
    "NodeList": _page(_NODE),
    "SessionBody": {"token": "…"},
    "SessionAnswer": _SESSION,
    "SessionList": _page(_SESSION_ROW),
    "LinkAnswer": {"link": "q7Jt…", "fragment": "#sign-in=q7Jt…", "expires_at": "2026-01-15T10:31:00.000Z"},
    "SettingList": _page({"key": "retention.keep", "value": "30d", "origin": "default"}),
    "AlertTestBody": {"channels": ["phone"]},
    "AlertTest": {"data": [{"channel": "phone", "kind": "ntfy", "ok": True, "detail": "the message was taken"}]},
    "FindingList": _page({"check": "disk", "result": "ok", "detail": "80.0 GB free in /var/lib/runbridge"}),
    "SummaryAnswer": {
        "version": "0.1.0",
        "counted_at": "2026-01-15T10:30:06.000Z",
        "status": "ok",
        "sentence": "Every connection answers, and every endpoint accepts what it is sent.",
        "runs": {"by_status": _COUNTS, "by_connection": {"dify": _COUNTS}},
        "deliveries": {
            "by_state": {"delivered": 2},
            "by_endpoint": {_ENDPOINT["id"]: {"delivered": 2}},
            "one_run_webhooks": {},
            "oldest_due_at": None,
        },
        "minutes": [{"at": "2026-01-15T10:30:00.000Z", "settled": 1, "delivered": 2, "failed": 0}],
        "hours": [{"at": "2026-01-15T10:00:00.000Z", "settled": 31, "delivered": 62, "failed": 0}],
        "attention": [],
        "database_bytes": 405_504,
    },
    "LivenessAnswer": {"status": "ok", "version": "0.1.0"},
    "ReadinessAnswer": {"status": "ready", "checks": {"running": True, "deliverer": True, "database": True}},
    "ProblemAnswer": {
        "type": "/errors#invalid-input",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "provider_run_id: is required (or trigger, to start a run)",
        "errors": [{"field": "provider_run_id", "message": "is required (or trigger, to start a run)"}],
        "request_id": "5f0c1b2a00000001",
    },
}  # fmt: skip
