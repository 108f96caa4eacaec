"""The commands of the README and of the quick start, run as they stand; the sandbox is the real Dify's stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.config.load import load_config
from tests.support.installation import process
from tests.support.manual import ROOT, block, blocks
from tests.support.ports import free_port
from tests.support.waiting import wait_until

PATIENCE_S = 90.0


class Shell:
    """A person's shell: their home, their folder, the repository's command on the path."""

    def __init__(self, home: Path, ports: dict[str, int]) -> None:
        self.folder = home / "my-bridge"
        self._ports = ports
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RUNBRIDGE_", "XDG_"))}
        self.env = clean | {"HOME": str(home), "PATH": f"{os.environ['PATH']}:{Path(sys.executable).parent}"}

    def adapted(self, text: str) -> str:
        """The text with the addresses of this test instead of the usual ones."""
        for usual, own in self._ports.items():
            text = text.replace(usual, f"127.0.0.1:{own}")
        return text

    def run(self, text: str, cwd: Path | None = None) -> str:
        """The output of a block, which must succeed."""
        done = subprocess.run(
            ["sh", "-euc", self.adapted(text)],
            cwd=cwd or self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, text: str) -> Iterator[subprocess.Popen[str]]:
        """A block that goes on until it is shown to end, which is then done cleanly."""
        with (self.folder / "serve.log").open("w") as log:
            child = subprocess.Popen(
                ["sh", "-euc", self.adapted(text)], cwd=self.folder, env=self.env, stdout=log, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield child
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(PATIENCE_S)


@pytest.mark.slow
def test_the_quick_start_leads_from_nothing_to_a_verified_webhook(tmp_path: Path):
    api, hooks = free_port(), free_port()
    with process("-m", "bridge.sandbox", "providers", "--port", "0", log=tmp_path / "sandbox.log") as sandbox:
        assert sandbox.stdout is not None
        shown = json.loads(sandbox.stdout.readline())
        providers = int(shown["url"].rpartition(":")[2])
        shell = Shell(tmp_path, {"127.0.0.1:8484": api, "127.0.0.1:9000": hooks, "127.0.0.1:9100": providers})
        shell.run(block("quickstart-secrets").replace("app-…", "sandbox-key"), cwd=ROOT)
        assert {path.stat().st_mode & 0o777 for path in shell.folder.iterdir()} == {0o600}
        config = shell.adapted(block("quickstart-config"))
        config = config.replace("[server]\n", f'[server]\nlisten = "127.0.0.1:{api}"\n')
        config = config.replace(
            'provider = "dify"\n', f'provider = "dify"\nbase_url = "{shown["providers"]["dify"]}"\n'
        )
        (shell.folder / "runbridge.toml").write_text(config)
        receiver = tmp_path / "receiver.py"
        receiver.write_text(block("receiver-python"))
        secret = (shell.folder / "my-app.secret").read_text().strip()
        env = {"MY_APP_WEBHOOK_SECRET": secret, "PORT": str(hooks)}
        with (
            process(str(receiver), env=env, log=tmp_path / "receiver.log") as app,
            shell.running(block("quickstart-serve")) as daemon,
        ):
            assert app.stdout is not None
            wait_until(lambda: daemon.poll() is not None or ready(shell), timeout_s=PATIENCE_S, what="a start")
            assert daemon.poll() is None, (shell.folder / "serve.log").read_text()
            shell.run("runbridge connections check dify")
            shell.run(block("quickstart-sandbox"))
            run = json.loads(shell.run(block("quickstart-register")))
            assert (run["connection"], run["metadata"]) == ("dify", {"order": 4711})
            shell.run(f"runbridge runs wait {run['id']} --timeout {PATIENCE_S:g}s")
            token = "RUNBRIDGE_TOKEN=$(cat api-token)\n"
            assert json.loads(shell.run(token + block("replace-register")))["id"] == run["id"]
            assert json.loads(shell.run(token + block("replace-wait")))["settled"]
            heard = [app.stdout.readline().split() for _ in range(2)]
            assert heard == [
                ["run.started", run["provider_run_id"], "running"],
                ["run.finished", run["provider_run_id"], "succeeded"],
            ]
            assert run["id"] in shell.run(f"runbridge runs show {run['id']}")
            assert shell.run("runbridge deliveries list").count("delivered") == 2


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_commands_of_the_readme_work_pasted_into_a_plain_shell(shell: str, tmp_path: Path):
    """Nothing of `make` but its environment is on the way: the demo has tests of its own."""
    assert block("readme-demo") == "make demo\n"
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / ".venv").symlink_to(sys.prefix)
    text = f"set -e\n{block('readme-by-hand')}{block('readme-end')}wait\n"
    for usual in ("127.0.0.1:8484", "127.0.0.1:9000", "127.0.0.1:9100"):
        port = free_port()
        text = text.replace(usual, f"127.0.0.1:{port}").replace(f"--port {usual[-4:]}", f"--port {port}")
        if usual.endswith("8484"):
            text = text.replace("[server]\n", f'[server]\nlisten = "127.0.0.1:{port}"\n')
    arrived = "until runbridge deliveries list --state delivered | grep -q run.finished; do sleep 0.2; done\n"
    text = text.replace("runbridge deliveries list\n", f"{arrived}runbridge deliveries list\n")  # a person is slower
    env = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    with (tmp_path / "said.txt").open("w+") as said:
        child = subprocess.Popen(
            [shell], stdin=subprocess.PIPE, stdout=said, stderr=said, cwd=clone, env=env, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            child.communicate(text, timeout=PATIENCE_S * 8)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what the last line of the README has not ended
                os.killpg(child.pid, signal.SIGKILL)
        shown = (tmp_path / "said.txt").read_text()
    assert child.returncode == 0, shown
    assert "run.finished" in shown
    assert '"verified": true' in shown


def ready(shell: Shell) -> bool:
    asked = ["curl", "-fsS", shell.adapted("http://127.0.0.1:8484/readyz")]
    return subprocess.run(asked, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0


def test_the_key_that_the_manual_makes_is_one(tmp_path: Path):
    text = next(one.text for one in blocks("toml") if "old_keys_file" in one.text)
    key = tmp_path / "secrets.key"
    key.write_text(f"{b64encode(bytes(32)).decode()}\n")
    key.chmod(0o600)
    subprocess.run(["sh", "-euc", block("rotate-key")], cwd=tmp_path, check=True)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old.keys", "secrets.key")] == [0o600, 0o600]
    (tmp_path / "runbridge.toml").write_text(f'[server]\napi_token = "a"\n{text}')
    config = load_config(tmp_path / "runbridge.toml", env={"HOME": str(tmp_path)})
    assert len(config.secrets.vault_keys) == 2
