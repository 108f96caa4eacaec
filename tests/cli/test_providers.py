"""The `providers` commands."""

from __future__ import annotations

import json


def test_providers_say_what_they_can_do(cli):
    listed = {p["name"]: p for p in cli("providers", "list", "--json").json["data"]}
    assert {"dibby", "retab", "dify", "instabase", "replicate", "buildbot"} <= set(listed)
    assert not [name for name, each in listed.items() if "mistakes" in each]
    assert "cancel" in listed["retab"]["can"]
    assert "cancel" not in listed["dibby"]["can"]
    assert listed["dify"]["base_url"] == "https://api.dify.ai/v1"
    assert 'provider = "dify"' in cli("providers", "show", "dify").out
    assert cli("providers", "show", "nope").code == 1


def test_a_recorded_body_is_read_without_a_request(cli, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"id": "x", "status": "FINISHED", "stepsCompleted": 2, "steps": 5}))
    result = cli("providers", "check", "dibby", "--body", body, "--json")
    assert result.code == 0
    assert (result.json["status"], result.json["provider_status"]) == ("succeeded", "FINISHED")
    body.write_text("{}")
    assert cli("providers", "check", "dibby", "--body", body).code == 1
    body.write_text("no json")
    assert cli("providers", "check", "dibby", "--body", body).code == 1
