"""Signatures: the published vectors, other people's libraries, and the traps those libraries hold."""

import base64
import json
import os
import random

import pytest
import standardwebhooks
import svix.webhooks

from bridge.domain.signing.hmac_v1 import new_secret, secret_key, sign, signature_headers, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, STAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
NOW = 1_800_000_000


@pytest.fixture
def at_now(monkeypatch):
    """The libraries ask the machine's clock; let it agree with our timestamps."""
    from datetime import UTC, datetime

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(NOW, tz or UTC)

    import standardwebhooks.webhooks

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Clock)
    monkeypatch.setattr(svix.webhooks, "datetime", Clock)


def test_the_published_vector_is_reproduced():
    assert sign(secret_key(SECRET), ID, STAMP, BODY) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(("age_s", "is_recent"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_a_timestamp_may_be_five_minutes_off(age_s, is_recent):
    key = secret_key(SECRET)
    headers = signature_headers([key], ID, NOW - age_s, BODY)
    assert verify([key], headers, BODY, now=NOW) is is_recent


def test_a_thousand_random_bodies_verify_with_both_libraries(at_now):
    chance = random.Random(7)
    for number in range(1000):
        secret = "whsec_" + base64.b64encode(chance.randbytes(chance.randint(24, 64))).decode()
        text = "".join(
            chr(chance.choice([*range(32, 127), 0xE9, 0x2028, 0x1F600])) for _ in range(chance.randint(0, 400))
        )
        body = json.dumps({"n": number, "text": text}, ensure_ascii=bool(number % 2)).encode()
        headers = signature_headers([secret_key(secret)], f"evt_{number}", NOW, body)
        standardwebhooks.Webhook(secret).verify(body, headers)
        svix.webhooks.Webhook(secret).verify(body, headers)


@pytest.mark.parametrize("count", [2, 10])
def test_during_rotation_every_live_secret_verifies(at_now, count):
    secrets = [new_secret() for _ in range(count)]
    headers = signature_headers([secret_key(secret) for secret in secrets], "evt_1", NOW, BODY)
    for secret in secrets:
        standardwebhooks.Webhook(secret).verify(BODY, headers)
        svix.webhooks.Webhook(secret).verify(BODY, headers)
        assert verify([secret_key(secret)], headers, BODY, now=NOW)


@pytest.mark.parametrize("body", [b"{}", '{"name":"Zoë \\u2028 \\u0000"}'.encode(), b'"' + b"x" * 1_000_000 + b'"'])
def test_unusual_bodies_verify(at_now, body):
    secret = new_secret()
    headers = signature_headers([secret_key(secret)], "evt_1", NOW, body)
    standardwebhooks.Webhook(secret).verify(body, headers)
    assert verify([secret_key(secret)], headers, body, now=NOW)


def test_every_entry_has_exactly_one_comma_and_one_space_between():
    """The Python libraries raise a bare ValueError on an entry with none or two, even beside a valid one."""
    entries = signature_headers([os.urandom(32) for _ in range(3)], "evt_1", NOW, BODY)["webhook-signature"].split(" ")
    assert [entry.count(",") for entry in entries] == [1, 1, 1]


def test_one_changed_bit_in_id_timestamp_or_body_is_noticed():
    key = secret_key(SECRET)
    headers = signature_headers([key], "evt_1", NOW, BODY)
    assert verify([key], headers, BODY, now=NOW)
    assert not verify([key], headers | {"webhook-id": "evt_0"}, BODY, now=NOW)
    assert not verify([key], headers | {"webhook-timestamp": str(NOW + 1)}, BODY, now=NOW)
    assert not verify([key], headers, BODY.replace(b"2", b"3", 1), now=NOW)


@pytest.mark.parametrize(("offset_s", "is_fresh"), [(-301, False), (-299, True), (299, True), (301, False)])
def test_the_timestamp_may_be_five_minutes_off_either_way(offset_s, is_fresh):
    key = secret_key(SECRET)
    headers = signature_headers([key], "evt_1", NOW, BODY)
    assert verify([key], headers, BODY, now=NOW + offset_s) is is_fresh


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": str(NOW), "webhook-signature": "v1,\udcff"},
        {"webhook-timestamp": str(NOW), "webhook-id": "\udcff", "webhook-signature": "v1,x"},
        {"webhook-timestamp": str(NOW), "webhook-signature": "v1 v2,x,y  v1,"},
    ],
)
def test_nonsense_in_the_headers_is_refused_without_an_error(headers):
    assert not verify([secret_key(SECRET)], headers, BODY, now=NOW)


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "24 to 64"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "24 to 64"),
        ("whsec_" + base64.urlsafe_b64encode(b"\xfb\xff" * 15).decode(), "no - or _"),
        ("whsec_" + base64.b64encode(b"x" * 25).decode().rstrip("="), "padding"),
        ("whsec_" + base64.b64encode(b"x" * 24).decode() + "====", "padding"),
        ("whsec_" + base64.b64encode(b"x" * 24).decode() + "\n", "standard base64"),
        ("whsec_", "24 to 64"),
    ],
)
def test_a_secret_that_receivers_would_read_differently_is_refused(secret, why):
    """No library checks the length, and Python's drop - and _ in silence: another key, no error."""
    with pytest.raises(ValueError, match=why):
        secret_key(secret)


@pytest.mark.parametrize("size", [24, 25, 26, 64])
def test_secrets_of_24_to_64_bytes_are_taken(size):
    assert secret_key("whsec_" + base64.b64encode(b"\xff" * size).decode()) == b"\xff" * size


def test_a_new_secret_is_one_of_ours():
    assert len(secret_key(new_secret())) == 32
