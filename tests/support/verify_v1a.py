"""Verify `v1a` signatures as a receiver does; runbridge itself only makes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def verify_v1a(public: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a `v1a` entry in the headers is of the `whpk_…` key `public`."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_"), validate=True))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    entries = headers["webhook-signature"].split(" ")
    return any(_is_signature(key, entry.removeprefix("v1a,"), signed) for entry in entries if entry[:4] == "v1a,")


def _is_signature(key: Ed25519PublicKey, encoded: str, signed: bytes) -> bool:
    try:
        key.verify(base64.b64decode(encoded, validate=True), signed)
    except InvalidSignature:
        return False
    return True
