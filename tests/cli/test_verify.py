"""`verify`: a genuine webhook passes, and each way to be wrong has its own sentence."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from bridge.cli.verify import find_faults, read_headers
from bridge.domain.event import EventType, other_event
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


def _event(output):
    data = {"sequence": 1, "previous_status": None, "run": {"progress": {"completed": 3, "total": 5}, "output": output}}
    return other_event("evt_1", EventType.RUN_FINISHED, data, now=datetime(2026, 1, 15, tzinfo=UTC)).body


def _signed(body):
    return signature_headers([KEY], "evt_1", NOW, body)


OUTPUTS = {
    "floats without a fraction": {"score": 1.0, "rows": [2.0, 2.5, 0.0], "page": 3, "z": {"deep": -4.0}, "zero": -0.0, "a": 7},
    "a list of many": {"scores": [float(n) for n in range(300)], "pages": list(range(300))},
    "mixed in one list": [1, 2.0, 3, 4.0],
    "exponents": {"large": 1e21, "larger": 10**21, "small": 1e-7, "tiny": 5e-324, "wide": 1e16, "most": 1.7976931348623157e308},
    "text": {"path": "a/b", "umlaut": "ü\u2028\u007f", "quote": 'a"b\\c', "control": "\b\f\n\t\u0001", "emoji": "\U0001f600"},
    "order and empty": {"z": 1.0, "a": {}, "m": [], "": None, "t": True},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_a_body_that_javascript_parsed_and_rewrote_is_recognised(output, indent):
    body = _event(output)
    rewrite = f"process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0)), null, {indent}))"
    rewritten = subprocess.run(["node", "-e", rewrite], input=body, capture_output=True, check=True).stdout
    if rewritten != body:
        (fault,) = _faults(_signed(body), rewritten)
        assert "it was parsed and rewritten" in fault


def test_the_spelling_of_a_number_that_was_changed_is_named():
    (fault,) = _faults(_signed(_event({"score": 1.0, "pages": 2})), _event({"score": 1, "pages": 2}))
    assert "as compact JSON with 1.0 for 1 (it was parsed and rewritten)" in fault


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda body: json.dumps(json.loads(body)).encode(),
        lambda body: body.replace(b"/", b"\\/"),
        lambda body: json.dumps(json.loads(body), separators=(",", ":")).encode(),
        lambda body: json.dumps(json.loads(body)).replace("<", "\\u003c").encode(),
    ],
    ids=["blanks", "slashes", "only ASCII", "HTML"],
)
def test_a_body_that_another_program_rewrote_is_recognised(rewrite):
    body = _event({"html": "<a/b>", "umlaut": "ü", "n": 1.0, "small": 1e-7, "large": 1e21})
    assert "it was parsed and rewritten" in _faults(_signed(body), rewrite(body))[0]


def test_a_body_that_was_read_with_another_encoding_is_recognised():
    body = _event({"umlaut": "über", "n": 1.0})
    assert "it was read as latin-1" in _faults(_signed(body), body.decode("latin-1").encode())[0]


def test_integers_that_javascript_rounds_are_mentioned():
    body = _event({"id": 12345678901234567891})
    assert "rounds its integers" in _faults(_signed(body), body.replace(b"567891", b"567000"))[0]
    assert "rounds" not in _faults(_signed(body), _event({"id": 5}))[0]


def test_keys_that_javascript_moves_are_mentioned():
    body = _event({"b": 1, "10": 2, "9": 3})
    assert "moves its keys that are numbers" in _faults(_signed(body), _event({"9": 3, "10": 2, "b": 1}))[0]
    assert "moves" not in _faults(_signed(body), _event({"a": "10"}))[0]


@pytest.mark.slow
def test_a_forged_body_with_many_numbers_is_refused_within_seconds():
    forged = _event({f"n{number}": number for number in range(10_000)})
    started = time.process_time()
    assert "another secret, or the body was changed" in _faults(_signed(_event({})), forged)[0]
    assert time.process_time() - started < 30  # 3 s on an idle machine


def test_a_signature_of_another_version_is_no_v1_signature():
    assert _faults(_headers(webhook_signature="v1a,AAAA")) == ["webhook-signature holds no v1 signature"]


def test_headers_are_read_as_curl_prints_them_and_as_json():
    assert read_headers("< HTTP/1.1 200 OK\r\n< Webhook-Id: a:b\r\n\r\n") == {"webhook-id": "a:b"}
    assert read_headers(' {"Webhook-Id": "x", "n": 5}') == {"webhook-id": "x", "n": "5"}


def test_what_another_library_signed_is_verified_from_files(cli, tmp_path):
    now = int(time.time())
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
