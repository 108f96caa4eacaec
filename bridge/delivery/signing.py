"""The headers of one attempt: what is sent is what is signed, at the moment of sending."""

from __future__ import annotations

from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import signing_key, with_v1a
from bridge.domain.signing.hmac_v1 import secret_key, signature_headers
from bridge.store.deliveries import Claimed


def sign_attempt(claimed: Claimed, of_file: Secret | None, timestamp: int) -> dict[str, str]:
    """Our headers: the signatures of every live secret over the bytes claimed, and what these bytes are.

    `of_file`: the secret of an endpoint from the operator's file; `timestamp` of this attempt in Unix seconds.
    ValueError with the reason where nothing can sign.
    """
    if claimed.fault is not None:
        raise ValueError(claimed.fault)
    shared = [of_file] if of_file is not None else [s.secret for s in claimed.secrets if s.kind == "v1"]
    if not shared:
        raise ValueError("it has no signing secret; rotate it to get one")
    keys = [secret_key(secret.reveal()) for secret in shared]
    headers = signature_headers(keys, claimed.delivery.event_id, timestamp, claimed.body)
    own = [signing_key(s.secret.reveal()) for s in claimed.secrets if s.kind == "v1a"]
    if own:
        headers = with_v1a(headers, own, claimed.body)
    return {**headers, "content-type": claimed.content_type}
