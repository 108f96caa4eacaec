"""v1a signatures: the published vector, and that receivers which know only v1 do not mind them."""

import base64
import time

import pytest
import standardwebhooks
import svix.webhooks

from bridge.domain.signing.ed25519_v1a import new_signing_key, public_key, sign_v1a, signing_key, with_v1a
from bridge.domain.signing.hmac_v1 import new_secret, secret_key, signature_headers
from tests.support.verify_v1a import verify_v1a

SIGNING = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID, STAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


def test_the_published_vector_is_reproduced():
    assert sign_v1a(signing_key(SIGNING), ID, STAMP, BODY) == SIGNATURE
    assert public_key(SIGNING) == PUBLIC


def test_the_published_vector_verifies():
    headers = {"webhook-id": ID, "webhook-timestamp": str(STAMP), "webhook-signature": SIGNATURE}
    assert verify_v1a(PUBLIC, headers, BODY)
    assert not verify_v1a(PUBLIC, headers, BODY + b" ")
    assert not verify_v1a(public_key(new_signing_key()), headers, BODY)


@pytest.mark.parametrize("is_v1a_first", [False, True])
def test_receivers_that_know_only_v1_skip_v1a_in_either_order(is_v1a_first):
    secret, key, now = new_secret(), new_signing_key(), int(time.time())
    headers = with_v1a(signature_headers([secret_key(secret)], "evt_1", now, BODY), [signing_key(key)], BODY)
    if is_v1a_first:
        headers["webhook-signature"] = " ".join(reversed(headers["webhook-signature"].split(" ")))
    standardwebhooks.Webhook(secret).verify(BODY, headers)
    svix.webhooks.Webhook(secret).verify(BODY, headers)
    assert verify_v1a(public_key(key), headers, BODY)


def test_during_rotation_every_live_key_signs():
    keys = [new_signing_key() for _ in range(3)]
    headers = with_v1a(
        signature_headers([secret_key(new_secret())], "evt_1", STAMP, BODY), [signing_key(key) for key in keys], BODY
    )
    assert headers["webhook-signature"].count("v1a,") == 3
    assert all(verify_v1a(public_key(key), headers, BODY) for key in keys)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("whsec_" + SIGNING[5:], "whsk_"),
        (SIGNING.rstrip("="), "padding"),
        (SIGNING.replace("/", "_"), "no - or _"),
        ("whsk_" + base64.b64encode(b"x" * 32).decode(), "64 bytes"),
        ("whsk_" + base64.b64encode(b"x" * 64).decode(), "two halves"),
    ],
)
def test_a_broken_signing_key_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        signing_key(text)


def test_no_error_shows_the_key():
    with pytest.raises(ValueError, match="whsk_") as caught:
        signing_key("whsk_" + "A" * 40)
    assert "AAAA" not in str(caught.value)
