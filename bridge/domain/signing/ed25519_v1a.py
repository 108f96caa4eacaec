"""Standard Webhooks `v1a` signatures (ed25519): the receiver holds no secret, only our public key.

A signing key is `whsk_` and base64 of 64 bytes (seed, then public key); a receiver gets `whpk_` and base64 of the 32
public ones. Sent beside `v1`, never instead of it: the official libraries verify `v1` only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported when something is signed: 6 MB
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SIGNING_PREFIX, _PUBLIC_PREFIX = "whsk_", "whpk_"
_KEY_BYTES = 32


def new_signing_key() -> str:
    """A new signing key, as `whsk_…`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    return _SIGNING_PREFIX + base64.b64encode(key.private_bytes_raw() + key.public_key().public_bytes_raw()).decode()


def signing_key(text: str) -> Ed25519PrivateKey:
    """The key in a `whsk_…` text.

    Raises ValueError unless it is standard base64 of 64 bytes whose second half is the public key of the first.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not text.startswith(_SIGNING_PREFIX):
        raise ValueError(f"this key starts with {_SIGNING_PREFIX}, followed by standard base64")
    try:
        raw = base64.b64decode(text.removeprefix(_SIGNING_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"after {_SIGNING_PREFIX} the key must be standard base64 with padding (no - or _)") from None
    if len(raw) != 2 * _KEY_BYTES:
        raise ValueError(f"a {_SIGNING_PREFIX} key holds {2 * _KEY_BYTES} bytes, this one {len(raw)}")
    key = Ed25519PrivateKey.from_private_bytes(raw[:_KEY_BYTES])
    if key.public_key().public_bytes_raw() != raw[_KEY_BYTES:]:
        raise ValueError("the two halves of this signing key do not belong together; generate a new one")
    return key


def public_key(text: str) -> str:
    """The `whpk_…` text of a `whsk_…` signing key, for receivers. Raises ValueError as `signing_key`."""
    return _PUBLIC_PREFIX + base64.b64encode(signing_key(text).public_key().public_bytes_raw()).decode()


def sign_v1a(key: Ed25519PrivateKey, message_id: str, timestamp: int, body: bytes) -> str:
    """The `v1a` entry: base64 ed25519 of `id.timestamp.body`; `timestamp` in Unix seconds."""
    return "v1a," + base64.b64encode(key.sign(f"{message_id}.{timestamp}.".encode() + body)).decode()


def with_v1a(headers: dict[str, str], keys: Sequence[Ed25519PrivateKey], body: bytes) -> dict[str, str]:
    """`headers` of `signature_headers` with one `v1a` entry per live key after their `v1` ones."""
    message_id, timestamp = headers["webhook-id"], int(headers["webhook-timestamp"])
    entries = [sign_v1a(key, message_id, timestamp, body) for key in keys]
    return headers | {"webhook-signature": " ".join([headers["webhook-signature"], *entries])}
