"""`verify`: a genuine webhook passes, and each way to be wrong has its own sentence."""

from __future__ import annotations

import json
import time

import pytest
from standardwebhooks import Webhook

from bridge.cli.verify import find_faults, read_headers
from bridge.domain.signing.hmac_v1 import new_secret, secret_key, signature_headers

SECRET = new_secret()
KEY = secret_key(SECRET)
BODY = b'{"id":"evt_1","type":"run.finished"}'
NOW = 1_700_000_000


def _headers(**changes: str) -> dict[str, str]:
    return {**signature_headers([KEY], "evt_1", NOW, BODY), **{k.replace("_", "-"): v for k, v in changes.items()}}


def _faults(headers=None, body=BODY, keys=None, now=NOW):
    return find_faults(keys or [KEY], _headers() if headers is None else headers, body, now=now, tolerance_s=300)


def test_a_genuine_webhook_has_no_fault():
    assert _faults() == []


def test_one_of_several_secrets_and_signatures_is_enough():
    other = secret_key(new_secret())
    assert _faults(keys=[other, KEY]) == []
    both = signature_headers([other, KEY], "evt_1", NOW, BODY)
    assert _faults(headers=both) == []


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name):
    headers = _headers()
    del headers[name]
    assert _faults(headers) == [f"the header {name} is missing"]


@pytest.mark.parametrize("stamp", ["soon", "-5", "1.5", "१२", "9" * 400])
def test_a_timestamp_that_is_not_a_number_is_reported(stamp):
    assert _faults(_headers(webhook_timestamp=stamp)) == ["webhook-timestamp is not a number of Unix seconds"]


@pytest.mark.parametrize(("now", "words"), [(NOW + 301, "301 s (5m old"), (NOW - 4000, "4000 s (67m in the future")])
def test_a_timestamp_that_is_off_says_by_how_much_and_whether_the_signature_would_hold(now, words):
    faults = _faults(now=now)
    assert len(faults) == 1
    assert words in faults[0]


def test_another_secret_is_distinguished_from_another_body():
    assert "another secret" in _faults(keys=[secret_key(new_secret())])[0]
    assert "no signature matches" in _faults(body=b'{"id":"evt_2"}')[0]


@pytest.mark.parametrize(
    ("body", "accident"),
    [
        (BODY + b"\n", "line break at its end"),
        (BODY + b"\r\n", "line break at its end"),
        (json.dumps(json.loads(BODY), indent=2).encode(), "parsed and rewritten"),
    ],
)
def test_the_usual_accidents_with_a_body_are_recognised(body, accident):
    assert accident in _faults(body=body)[0]


def test_a_signature_of_another_version_is_no_v1_signature():
    assert _faults(_headers(webhook_signature="v1a,AAAA")) == ["webhook-signature holds no v1 signature"]


def test_headers_are_read_as_curl_prints_them_and_as_json():
    assert read_headers("< HTTP/1.1 200 OK\r\n< Webhook-Id: a:b\r\n\r\n") == {"webhook-id": "a:b"}
    assert read_headers(' {"Webhook-Id": "x", "n": 5}') == {"webhook-id": "x", "n": "5"}


def test_what_another_library_signed_is_verified_from_files(cli, tmp_path):
    now = int(time.time())
    from datetime import UTC, datetime

    signature = Webhook(SECRET).sign("evt_1", datetime.fromtimestamp(now, UTC), BODY.decode())
    (tmp_path / "headers").write_text(f"webhook-id: evt_1\nwebhook-timestamp: {now}\nwebhook-signature: {signature}\n")
    (tmp_path / "body").write_bytes(BODY)
    (tmp_path / "secret").write_text(SECRET + "\n")
    files = ("--headers", tmp_path / "headers", "--body", tmp_path / "body")
    good = cli("verify", "--secret-file", tmp_path / "secret", *files)
    assert (good.code, good.out) == (0, "✓ evt_1 is genuine\n")
    bad = cli("verify", "--secret", new_secret(), *files, "--json")
    assert bad.code == 1
    assert bad.json["verified"] is False
    assert cli("verify", *files).code == 2
    assert cli("verify", "--secret", "whsec_short", *files).code == 2
    assert cli("verify", "--secret", SECRET, "--headers", tmp_path / "none", "--body", tmp_path / "body").code == 2
