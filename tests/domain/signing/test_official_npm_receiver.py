"""Our signatures before the library that receivers in JavaScript use."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import time
from pathlib import Path

from bridge.domain.event import encode
from bridge.domain.signing.hmac_v1 import secret_key, signature_headers

COUNT = 1000
NODE_S = 60.0
VERIFY = """
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const counts = { verified: 0, refused: 0 };
for (const line of readFileSync(process.argv[2], "utf8").trim().split("\\n")) {
  const { secret, headers, body } = JSON.parse(line);
  const bytes = Buffer.from(body, "base64");
  const verify = (sent) => new Webhook(secret).verify(sent, headers);
  if (JSON.stringify(verify(bytes)) === JSON.stringify(JSON.parse(bytes))) counts.verified += 1;
  bytes[bytes.length >> 1] ^= 1;
  try { verify(bytes); } catch { counts.refused += 1; }
}
console.log(JSON.stringify(counts));
"""


def new_secret_of(chance: random.Random) -> str:
    """A secret of any length that the standard allows."""
    return "whsec_" + base64.b64encode(chance.randbytes(chance.randint(24, 64))).decode()


def signed(number: int, chance: random.Random, now: int) -> dict[str, object]:
    """One random body as we would send it, some of them during a rotation, with a secret that must verify it."""
    characters = [*range(1, 127), 0xE9, 0x2028, 0x200D, 0xFFFF, 0x1F600, 0x10FFFF]
    text = "".join(chr(chance.choice(characters)) for _ in range(chance.randint(0, 400)))
    body = encode({"n": number, "text": text, "x": chance.random() * 10 ** chance.randint(-9, 9)})
    secrets = [new_secret_of(chance) for _ in range(chance.randint(1, 3))]
    headers = signature_headers([secret_key(secret) for secret in secrets], f"evt_{number}", now, body)
    return {"secret": chance.choice(secrets), "headers": headers, "body": base64.b64encode(body).decode()}


def test_a_thousand_random_bodies_verify_with_npm_standardwebhooks(node_folder: Path, tmp_path: Path) -> None:
    """And none of them with one bit changed."""
    chance, now = random.Random(11), int(time.time())
    lines, script = tmp_path / "signed.jsonl", node_folder / "verify.mjs"
    lines.write_text("\n".join(json.dumps(signed(number, chance, now)) for number in range(COUNT)))
    script.write_text(VERIFY)
    counts = subprocess.run(["node", script, lines], check=True, capture_output=True, text=True, timeout=NODE_S)
    assert json.loads(counts.stdout) == {"verified": COUNT, "refused": COUNT}
