"""The key of the secrets at rest, from outside: made at the first start, rotated, lost."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from bridge.domain.encryption import new_key
from bridge.sandbox import Receiver
from tests.support.daemon_process import DaemonProcess


async def rotate(daemon: DaemonProcess) -> tuple[int, str]:
    """`runbridge db rotate-key`: exit code and what it says."""
    command = [sys.executable, "-m", "bridge", "db", "rotate-key", "--config", str(daemon.config_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


async def add_endpoint(daemon: DaemonProcess, receiver: Receiver) -> dict[str, Any]:
    body = {"url": receiver.url("/hooks"), "headers": {"x-key": "a-header-value"}}
    made: dict[str, Any] = await daemon.ask("POST", "/v1/endpoints", body, status=201)
    return made


async def ping(daemon: DaemonProcess, endpoint: dict[str, Any]) -> dict[str, Any]:
    """Send a test delivery; returns it as recorded after its first attempt."""
    event = (await daemon.ask("POST", f"/v1/endpoints/{endpoint['id']}/ping", {}, status=202))["event_id"]
    shown = await daemon.eventually(f"/v1/deliveries?event={event}", lambda found: bool(found["data"][0]["attempts"]))
    delivery: dict[str, Any] = shown["data"][0]
    return delivery


async def check_ping(daemon: DaemonProcess, receiver: Receiver, endpoint: dict[str, Any]) -> None:
    """A test delivery arrives, signed with the endpoint's secret and with its header."""
    made = await ping(daemon, endpoint)
    assert made["state"] == "delivered", made
    arrived = receiver.received[-1]
    standardwebhooks.Webhook(endpoint["secret"]).verify(arrived.body, arrived.headers)
    assert arrived.headers["x-key"] == "a-header-value"


@pytest.fixture
def daemon(tmp_path: Path) -> DaemonProcess:
    return DaemonProcess(tmp_path, delivery={"allow": ["127.0.0.0/8"], "retry_schedule": ["1h"]})


async def test_a_key_is_made_beside_the_file_and_rotated_with_the_daemon_stopped(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    async with Receiver() as receiver, daemon:
        endpoint = await add_endpoint(daemon, receiver)
        await check_ping(daemon, receiver, endpoint)
        path = tmp_path / "secrets.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = path.read_text()
        code, said = await rotate(daemon)
        assert (code, path.read_text()) == (1, before)
        assert "another runbridge" in said
        await daemon.stop()
        code, said = await rotate(daemon)
        assert code == 0, said
        assert "2 values" in said
        keys = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert len(keys) == 2
        path.write_text(f"{keys[0]}\n")  # the old one is not needed any more
        await daemon.restart()
        await check_ping(daemon, receiver, endpoint)
        assert not daemon.log_lines("secrets.unreadable")
        await daemon.stop()


async def test_a_configured_key_is_changed_by_a_reload(daemon: DaemonProcess, tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    daemon.config["secrets"] = {"key": first}
    async with Receiver() as receiver, daemon:
        assert not (tmp_path / "secrets.key").exists()
        endpoint = await add_endpoint(daemon, receiver)
        daemon.config["secrets"] = {"key": second, "old_keys": first}
        await daemon.reload("secrets.sealed")
        daemon.config["secrets"] = {"key": second}
        await daemon.reload()
        await check_ping(daemon, receiver, endpoint)
        await daemon.stop()
        daemon.config["secrets"] = {"key": first, "old_keys": second}
        daemon.write_config()
        assert (await rotate(daemon))[0] == 0
        daemon.config["secrets"] = {"key": first}
        await daemon.restart()
        await check_ping(daemon, receiver, endpoint)
        assert not daemon.log_lines("secrets.unreadable")
        await daemon.stop()


async def test_a_lost_key_is_reported_fails_deliveries_clearly_and_is_repaired_by_new_secrets(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    async with Receiver() as receiver, daemon:
        endpoint = await add_endpoint(daemon, receiver)
        await daemon.stop()
        kept = (tmp_path / "secrets.key").read_text()
        (tmp_path / "secrets.key").unlink()
        await daemon.restart()
        (line,) = daemon.log_lines("secrets.unreadable")
        assert line["count"] == 2
        failed = await ping(daemon, endpoint)
        assert (failed["state"], failed["last_outcome"]) == ("pending", "unsigned")
        assert "old_keys" in failed["attempts"][0]["detail"]
        assert receiver.received == []
        found = (await daemon.ask("GET", "/v1/doctor"))["data"]
        about_it = [one for one in found if one["check"] == f"endpoint {endpoint['id']}"]
        assert {one["result"] for one in about_it} == {"wrong"}
        assert any(one["detail"].startswith(f"Nothing can be sent to {endpoint['id']}: ") for one in about_it)
        (secrets,) = (one["detail"] for one in found if one["check"] == "secrets")
        assert f"no key opens the signing secret of {endpoint['id']}" in secrets
        listed = await daemon.ask("GET", "/v1/endpoints")
        assert [one["id"] for one in listed["data"]] == [endpoint["id"]]
        path = f"/v1/endpoints/{endpoint['id']}"
        fresh = await daemon.ask("POST", f"{path}/rotate-secret", {"overlap": "0s"})
        await daemon.ask("PATCH", path, {"headers": {"x-key": "a-header-value"}})
        await check_ping(daemon, receiver, endpoint | {"secret": fresh["secret"]})
        await daemon.stop()
        made = (tmp_path / "secrets.key").read_text()
        (tmp_path / "secrets.key").write_text(made + kept)  # found again: as a further line
        await daemon.restart()
        await check_ping(daemon, receiver, endpoint | {"secret": fresh["secret"]})
        await daemon.stop()


async def test_postgresql_without_a_key_warns_and_with_one_encrypts_what_was_plain(
    daemon: DaemonProcess, postgresql_url: str, tmp_path: Path
) -> None:
    daemon.config["database"]["url"] = postgresql_url
    async with Receiver() as receiver, daemon:
        assert len(daemon.log_lines("secrets.plain")) == 1
        assert not (tmp_path / "secrets.key").exists()
        endpoint = await add_endpoint(daemon, receiver)
        daemon.config["secrets"] = {"key": new_key()}
        line = await daemon.reload("secrets.sealed")
        assert line["count"] == 2
        await check_ping(daemon, receiver, endpoint)
        code, said = await rotate(daemon)
        assert code == 1
        assert "stop it first" in said
        await daemon.stop()
        assert (await rotate(daemon))[0] == 0


async def test_a_damaged_key_file_keeps_the_daemon_from_starting_with_one_sentence(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """A fresh key instead would encrypt new secrets while the old ones could never be read again."""
    (tmp_path / "secrets.key").write_text("garbage\n")
    code, said = await daemon.run_to_end()
    assert code == 1
    assert "secrets.key" in said
    assert "Traceback" not in said
    assert (tmp_path / "secrets.key").read_text() == "garbage\n"
