"""Standard Webhooks 1.0.0 signatures (`v1`, HMAC-SHA256), by which a receiver knows that a POST is ours."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import os
import re

SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
_PREFIX = "whsec_"
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_STAMP = re.compile(r"[0-9]{1,15}")  # int() of thousands of digits would raise


def new_secret() -> str:
    """A new signing secret of 32 random bytes, as `whsec_…`."""
    return _PREFIX + base64.b64encode(os.urandom(32)).decode()


@functools.lru_cache(maxsize=1024)  # of the secrets that sign now; `_begun` keeps what is made of them, too
def secret_key(secret: str) -> bytes:
    """The key bytes of a `whsec_…` secret.

    Raises ValueError unless it is standard base64 of 24 to 64 bytes, with padding; receivers silently drop `-` and
    `_`, so these are refused.
    """
    if not secret.startswith(_PREFIX):
        raise ValueError("a signing secret starts with whsec_, followed by standard base64")
    encoded = secret.removeprefix(_PREFIX)
    if not _BASE64.fullmatch(encoded):  # b64decode accepts excess padding
        raise ValueError("after whsec_ the signing secret must be standard base64 with padding (no - or _)")
    key = base64.b64decode(encoded)
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(f"a signing secret holds 24 to 64 bytes, this one {len(key)}")
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The `v1` entry: base64 HMAC-SHA256 of `id.timestamp.body`; `timestamp` in Unix seconds."""
    mac = _begun(key).copy()
    mac.update(f"{message_id}.{timestamp}.".encode() + body)
    return "v1," + base64.b64encode(mac.digest()).decode()


@functools.lru_cache(maxsize=1024)
def _begun(key: bytes) -> hmac.HMAC:
    """An HMAC to copy: OpenSSL takes longer to look up the algorithm than to sign."""
    return hmac.new(key, digestmod=hashlib.sha256)


def signature_headers(keys: list[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt, one signature per live key, separated by single spaces."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in keys),
    }


def verify(keys: list[bytes], headers: dict[str, str], body: bytes, *, now: int, tolerance_s: int = 300) -> bool:
    """Whether one of the signatures in `headers` (lower-case names) is ours and the timestamp is recent."""
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _STAMP.fullmatch(stamp) or abs(now - int(stamp)) > tolerance_s:
        return False
    if not message_id.isascii():
        return False  # ours is; bytes that are not UTF-8 arrive as surrogates, which cannot be encoded
    given = [entry for entry in headers.get("webhook-signature", "").split(" ") if entry.isascii()]
    expected = [sign(key, message_id, int(stamp), body) for key in keys]
    return any(hmac.compare_digest(e, g) for e in expected for g in given)
