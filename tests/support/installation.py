"""A running daemon with sandbox providers and a verifying receiver, all as processes, for the command line's tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.domain.signing.hmac_v1 import new_secret
from tests.support.ports import free_port

RUNBRIDGE = [sys.executable, "-m", "bridge"]
TOKEN = "token-of-the-tests"
START_S = 90.0


@dataclass(frozen=True)
class Installation:
    """Addresses and files of everything that runs."""

    folder: Path
    config: Path
    url: str
    sandbox: str
    receiver: str
    secret: str

    def add_run(self, provider: str = "dify", *, run_id: str | None = None, **scenario: Any) -> str:
        """A run at a sandbox provider, or another life for the run with this id; its id there."""
        body = {"provider": provider, "life": scenario} | ({} if run_id is None else {"id": run_id})
        return str(post_json(f"{self.sandbox}/_control/runs", body)["id"])


def post_json(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


@contextmanager
def process(*arguments: str, env: dict[str, str] | None = None, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended by SIGTERM, and by SIGKILL if it will not."""
    with log.open("w") as errors:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(env or {})},
        )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            assert child.stdout is not None
            child.stdout.close()


@contextmanager
def installation(folder: Path) -> Iterator[Installation]:
    """Run everything while the block runs; it is ready when the block begins."""
    secret = new_secret()
    with ExitStack() as stack:
        providers = stack.enter_context(process("-m", "bridge.sandbox", "providers", log=folder / "sandbox.log"))
        receiver = stack.enter_context(
            process("-m", "bridge.sandbox", "receiver", "--secret", secret, log=folder / "receiver.log")
        )
        assert providers.stdout is not None
        assert receiver.stdout is not None
        sandbox = json.loads(providers.stdout.readline())
        hooks = json.loads(receiver.stdout.readline())["url"]
        port = free_port()
        config = folder / "runbridge.toml"
        config.write_text(_config_text(folder, port, sandbox["providers"], hooks, secret))
        config.chmod(0o600)
        daemon = stack.enter_context(
            process("-m", "bridge", "serve", "--config", str(config), log=folder / "daemon.log")
        )
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(daemon, url, folder / "daemon.log")
        yield Installation(folder, config, url, sandbox["url"], hooks, secret)


def _config_text(folder: Path, port: int, providers: dict[str, str], hooks: str, secret: str) -> str:
    return f"""
[server]
listen = "127.0.0.1:{port}"
api_token = "{TOKEN}"
[database]
url = "sqlite:///{folder / "runbridge.db"}"
[connections.dify-prod]
provider = "dify"
base_url = "{providers["dify"]}"
api_key = "sandbox-key"
max_interval = "250ms"
[connections.dify-wrong-key]
provider = "dify"
base_url = "{providers["dify"]}"
api_key = "not-the-key"
[endpoints.my-app]
url = "{hooks}"
secret = "{secret}"
[delivery]
allow = ["127.0.0.0/8"]
"""


def _wait_until_ready(daemon: subprocess.Popen[str], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and daemon.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the daemon does not become ready:\n{log.read_text()[-4000:]}")
