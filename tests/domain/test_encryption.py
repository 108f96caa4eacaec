"""Secrets at rest: an encrypted value can be decrypted with its key and in its place only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.encryption import Keyring, SecretPlace, Unreadable, new_key, parse_keys

HERE = SecretPlace("endpoint_secrets", "secret", "ep_1/sec_1")
ELSEWHERE = [
    SecretPlace("endpoint_secrets", "secret", "ep_1/sec_2"),
    SecretPlace("endpoint_secrets", "secret", "ep_2/sec_1"),
    SecretPlace("endpoint_secrets", "other", "ep_1/sec_1"),
    SecretPlace("endpoints", "secret", "ep_1/sec_1"),
]


def keyring(*texts: str) -> Keyring:
    return Keyring([key for text in texts for key in parse_keys(text)])


@given(st.text())
def test_what_was_sealed_is_opened_as_it_was(text: str):
    opened = keyring(new_key())
    encrypted = opened.encrypt(HERE, text)
    assert opened.decrypt(HERE, encrypted) == text
    assert encrypted.startswith(opened.prefix)


def test_the_same_text_never_looks_the_same_twice():
    opened = keyring(new_key())
    assert opened.encrypt(HERE, "whsec_x") != opened.encrypt(HERE, "whsec_x")


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_value_moved_to_another_place_cannot_be_opened(place: SecretPlace):
    opened = keyring(new_key())
    encrypted = opened.encrypt(HERE, "whsec_x")
    with pytest.raises(Unreadable, match="another row"):
        opened.decrypt(place, encrypted)


def test_a_value_with_one_bit_changed_cannot_be_opened():
    opened = keyring(new_key())
    encrypted = opened.encrypt(HERE, "whsec_x")
    raw = bytearray(base64.b64decode(encrypted.removeprefix(opened.prefix)))
    for position in range(len(raw)):
        raw[position] ^= 1
        with pytest.raises(Unreadable):
            opened.decrypt(HERE, opened.prefix + base64.b64encode(raw).decode())
        raw[position] ^= 1


@pytest.mark.parametrize("rest", ["", "no base64", "QUJD"])
def test_a_value_that_was_cut_off_cannot_be_opened(rest: str):
    opened = keyring(new_key())
    with pytest.raises(Unreadable):
        opened.decrypt(HERE, opened.prefix + rest)


def test_after_a_rotation_old_values_are_opened_with_the_old_key_and_new_ones_sealed_with_the_new():
    old, new = new_key(), new_key()
    encrypted = keyring(old).encrypt(HERE, "whsec_x")
    both = keyring(new, old)
    assert both.decrypt(HERE, encrypted) == "whsec_x"
    assert keyring(new).decrypt(HERE, both.encrypt(HERE, "whsec_y")) == "whsec_y"
    with pytest.raises(Unreadable, match="old_keys"):
        keyring(new).decrypt(HERE, encrypted)


def test_without_a_key_values_are_stored_plainly_and_sealed_ones_name_the_key_that_is_missing():
    assert Keyring().encrypt(HERE, "whsec_x") == "whsec_x"
    encrypted = keyring(new_key()).encrypt(HERE, "whsec_x")
    with pytest.raises(Unreadable, match=encrypted.split(":")[1]):
        Keyring().decrypt(HERE, encrypted)


def test_what_was_stored_before_there_was_a_key_is_read_as_it_is():
    assert keyring(new_key()).decrypt(HERE, "whsec_x") == "whsec_x"


def test_a_key_file_may_hold_comments_and_several_keys_newest_first():
    first, second = new_key(), new_key()
    keys = parse_keys(f"# ours\n{first} # since June\n\n{second}\n")
    assert [key.id for key in keys] == [parse_keys(first)[0].id, parse_keys(second)[0].id]


@pytest.mark.parametrize("text", ["QUJD", "not base64 at all", base64.b64encode(bytes(31)).decode(), "é"])
def test_a_key_that_is_not_32_bytes_is_refused_without_being_repeated(text: str):
    with pytest.raises(ValueError, match="32 bytes") as caught:
        parse_keys(text)
    assert text not in str(caught.value)


def test_no_repr_shows_a_key():
    text = new_key()
    (key,) = parse_keys(text)
    assert text not in repr(key)
    assert base64.b64decode(text).hex() not in repr(key)
