"""`runbridge verify`: check the signature of a received webhook, and explain a mismatch."""

from __future__ import annotations

import hmac
import json
import sys
import time
from pathlib import Path

import click

from bridge.cli.options import DurationText, Settings, json_option, pass_settings, read_keys, secret_options
from bridge.cli.output import mark, print_value, rough, say
from bridge.domain.signing import hmac_v1

REQUIRED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command
@secret_options
@click.option(
    "--headers",
    "headers_file",
    metavar="FILE",
    type=_FILE,
    required=True,
    help="Lines `name: value`, or a JSON object.",
)
@click.option(
    "--body", "body_file", metavar="FILE", type=_FILE, required=True, help="The body, byte for byte as received."
)
@click.option("--tolerance", type=DurationText(), default="5m", show_default=True, help="Allowed age, or lead, of it.")
@json_option
@pass_settings
def verify(
    settings: Settings,
    secret: str | None,
    secret_file: Path | None,
    headers_file: Path,
    body_file: Path,
    tolerance: float,
) -> int:
    """Check the signature of a received webhook; exit 1, with the reason, if it does not match. A FILE may be -."""
    keys = read_keys(secret, secret_file)
    if not keys:
        raise click.UsageError("give the endpoint's secret with --secret-file or --secret")
    headers = read_headers(_read(headers_file).decode(errors="replace"))
    reasons = find_faults(keys, headers, _read(body_file), now=int(time.time()), tolerance_s=int(tolerance))
    if settings.as_json:
        print_value({"verified": not reasons, "reasons": reasons})
    elif not reasons:
        say(mark(is_good=True), headers["webhook-id"], "is genuine")
    for reason in [] if settings.as_json else reasons:
        say(mark(is_good=False), reason)
    return 1 if reasons else 0


def find_faults(keys: list[bytes], headers: dict[str, str], body: bytes, *, now: int, tolerance_s: int) -> list[str]:
    """Return every reason not to trust this webhook; [] if it is genuine. `headers` have lower-case names."""
    if missing := [name for name in REQUIRED_HEADERS if not headers.get(name)]:
        return [f"the header {name} is missing" for name in missing]
    message_id, stamp = headers["webhook-id"], headers["webhook-timestamp"]
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        return ["webhook-timestamp is not a number of Unix seconds"]
    faults = []
    off_s = now - int(stamp)
    if abs(off_s) > tolerance_s:
        direction = "old" if off_s > 0 else "in the future"
        faults.append(
            f"the timestamp is off by {abs(off_s)} s ({rough(abs(off_s))} {direction}; {tolerance_s} s are allowed)"
        )
    given = [entry for entry in headers["webhook-signature"].split() if entry.startswith("v1,")]
    if not given:
        faults.append("webhook-signature holds no v1 signature")
    elif not _is_signed(keys, message_id, int(stamp), body, given):
        faults.append(_explain_mismatch(keys, message_id, int(stamp), body, given))
    return faults


def _is_signed(keys: list[bytes], message_id: str, stamp: int, body: bytes, given: list[str]) -> bool:
    expected = [hmac_v1.sign(key, message_id, stamp, body).encode() for key in keys]
    return any(hmac.compare_digest(one, other.encode()) for one in expected for other in given)


def _explain_mismatch(keys: list[bytes], message_id: str, stamp: int, body: bytes, given: list[str]) -> str:
    """Try the usual changes of a body between socket and file."""
    for variant, change in _variants(body):
        if variant != body and _is_signed(keys, message_id, stamp, variant, given):
            return f"no signature matches this body, but one does {change}: keep the body byte for byte"
    return f"no signature matches ({len(given)} tried): another secret, or the body was changed"


def _variants(body: bytes) -> list[tuple[bytes, str]]:
    variants = [
        (body.rstrip(b"\r\n"), "without the line break at its end"),
        (body.replace(b"\r\n", b"\n"), "with plain line breaks"),
    ]
    try:
        compact = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return variants
    return [*variants, (compact.encode(errors="replace"), "as compact JSON (it was parsed and rewritten)")]


def read_headers(text: str) -> dict[str, str]:
    """Parse `name: value` lines, skipping a status line, or a JSON object; names in lower case."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise click.UsageError("--headers begins like a JSON object but is not valid JSON") from None
        return {str(name).lower(): str(value).strip() for name, value in found.items()}
    lines = (line.lstrip("<> ").partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon and name.strip()}


def _read(path: Path) -> bytes:
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
