"""Encryption of secrets at rest: AES-256-GCM, each value bound to its table, column and row.

    v1:<key id>:<base64 of 12 bytes nonce, ciphertext and 16 bytes tag>

A copied database or backup is useless without the key, and a value that was moved to another row cannot be decrypted
there. Values that were stored before there was a key are read as they are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from bridge.domain.errors import BridgeError

if TYPE_CHECKING:  # imported when something is encrypted: 6 MB
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12  # what GCM is made for; random ones stay safe for 2^32 values under one key (NIST SP 800-38D)
_MARK: Final = "v1:"


class Unreadable(BridgeError):
    """A value cannot be decrypted with the configured keys, or was moved to another row."""


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a value is stored. It can be decrypted only there."""

    table: str
    column: str
    row: str

    @property
    def associated_data(self) -> bytes:
        """The context that the ciphertext is bound to."""
        return f"{self.table}\0{self.column}\0{self.row}".encode()


class EncryptionKey:
    """One key; the repr shows only its id."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.id = hashlib.sha256(b"runbridge key id\0" + key).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"EncryptionKey({self.id})"

    @cached_property
    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._key)

    def encrypt(self, place: SecretPlace, plain: bytes) -> bytes:
        """Nonce, ciphertext and tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, place.associated_data)

    def decrypt(self, place: SecretPlace, ciphertext: bytes) -> bytes:
        """The plaintext; InvalidTag if it was not encrypted with this key for this place."""
        return self._cipher.decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], place.associated_data)


class Keyring:
    """Encrypts with the first of its keys, decrypts with any. Without keys it stores values as they are."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[EncryptionKey] = ()) -> None:
        self._keys = tuple(keys)

    @property
    def has_key(self) -> bool:
        """Whether values are encrypted."""
        return bool(self._keys)

    @property
    def prefix(self) -> str:
        """The beginning of every value that is encrypted with the present key; empty without one."""
        return f"{_MARK}{self._keys[0].id}:" if self._keys else ""

    def use(self, keys: Sequence[EncryptionKey]) -> None:
        """Replace the keys."""
        self._keys = tuple(keys)

    def encrypt(self, place: SecretPlace, text: str) -> str:
        """The text as it is stored."""
        if not self._keys:
            return text
        return self.prefix + base64.b64encode(self._keys[0].encrypt(place, text.encode())).decode()

    def decrypt(self, place: SecretPlace, stored: str) -> str:
        """The text that was stored. Unreadable says why it cannot be decrypted."""
        if not is_encrypted(stored):
            return stored
        key_id, _, encoded = stored.removeprefix(_MARK).partition(":")
        key = next((key for key in self._keys if key.id == key_id), None)
        if key is None:
            raise Unreadable(
                f"it is encrypted with the key {key_id[:12]!r}, which is not among [secrets] key and old_keys"
            )
        from cryptography.exceptions import InvalidTag

        try:
            return key.decrypt(place, base64.b64decode(encoded, validate=True)).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise Unreadable("its ciphertext was changed, or belongs to another row") from None


def is_encrypted(stored: str) -> bool:
    """Whether a stored text is a ciphertext; no `whsec_…`, JSON or header value begins like one."""
    return stored.startswith(_MARK)


def new_key() -> str:
    """A fresh key as text: 32 random bytes in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_keys(text: str) -> list[EncryptionKey]:
    """The keys in a text, newest first: base64, a blank or line break between them, `#` begins a comment.

    ValueError unless each is 32 bytes.
    """
    words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    return [EncryptionKey(_key_bytes(word)) for word in words]


def _key_bytes(word: str) -> bytes:
    try:
        key = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key is {KEY_BYTES} bytes in standard base64; `openssl rand -base64 {KEY_BYTES}` makes one")
    return key
