"""Standard Webhooks signatures: `v1` (HMAC-SHA256) and `v1a` (ed25519)."""
