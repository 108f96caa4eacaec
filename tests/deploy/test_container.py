"""The container image, the compose file and the Kubernetes manifests: what can be seen of them without an engine."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bridge.config.load import load_config
from tests.support.daemon_process import TOKEN, DaemonProcess
from tests.support.manual import ROOT, block
from tests.support.waiting import until

MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/runbridge.yaml").read_text(encoding="utf-8")))
CONFIG = next(str(one["data"]["config.toml"]) for one in MANIFESTS if one["kind"] == "ConfigMap")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_hadolint_finds_nothing_in_the_container_file() -> None:
    hadolint = str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([hadolint, ROOT / "Containerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_holds_what_it_copies_and_nothing_secret() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    wanted = {path.split("/")[0] for line in copied for path in line.split()}
    ignored = (ROOT / ".containerignore").read_text()
    assert ignored == (ROOT / ".dockerignore").read_text()
    let_through = {line[1:].split("/")[0] for line in ignored.splitlines() if line.startswith("!")}
    assert wanted == let_through
    assert all((ROOT / path).exists() for line in copied for path in line.split())


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_a_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    assert faults_of(manifest) == []
    assert faults_of({**manifest, "metadata": {**manifest["metadata"], "unheard-of": "x"}}) != []


def faults_of(manifest: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


@pytest.mark.slow
async def test_two_nodes_of_the_manifests_answer_their_probes_and_share_one_database(
    tmp_path: Path, postgresql_url: str
) -> None:
    """As the kubelet asks them: by the pod's address, which is no host name that a configuration could hold."""
    (deployment,) = (one for one in MANIFESTS if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    make_secret(tmp_path)
    (tmp_path / "api-token").write_text(TOKEN)
    (tmp_path / "database-url").write_text(postgresql_url)
    async with contextlib.AsyncExitStack() as stack:
        for name in ("first", "second")[: deployment["spec"]["replicas"]]:
            (tmp_path / name).mkdir()
            node = DaemonProcess(tmp_path / name)
            node.config = tomllib.loads(CONFIG)
            node.config["server"]["listen"] = "127.0.0.1:0"
            node.environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
            await stack.enter_async_context(node)
            for probe in probes:
                headers = {each["name"]: each["value"] for each in probe["httpHeaders"]}
                await until(partial(is_well, node, probe["path"], headers))
            assert (await node.call("GET", "/readyz", headers={"Host": "10.1.2.3:8484"}))[0] == 421
            scrape = {"Authorization": f"Bearer {(tmp_path / 'prometheus-token').read_text()}"}
            assert (await node.call("GET", "/metrics", headers=scrape))[0] == 200
        await node.eventually("/v1/nodes", lambda page: len(page["data"]) == 2)


async def is_well(node: DaemonProcess, path: str, headers: dict[str, str]) -> bool:
    return (await node.call("GET", path, headers=headers))[0] == 200


def make_secret(folder: Path) -> None:
    """The files of the page's Secret."""
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    shown = "\n".join(
        f"printf %s {value.rstrip(chr(92)).strip()} > '{name}'"
        for name, value in re.findall(r"--from-literal=([\w.-]+)=(.+)", page)
    )
    subprocess.run(["sh", "-euc", shown.replace("…", "x")], cwd=folder, timeout=60, check=True)


def test_the_configuration_of_the_manifests_loads_with_the_secret_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    make_secret(tmp_path)
    config = load_config(tmp_path / "config.toml", env={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert set(config.connections) == {"dify"}


def test_the_files_of_the_page_are_those_that_compose_mounts(tmp_path: Path) -> None:
    shown = (block("container-files") + block("compose-files")).replace("…", "x")
    subprocess.run(["sh", "-euc", shown], cwd=tmp_path, timeout=60, check=True)
    made = tmp_path / "container"
    mounted = {secret["file"] for secret in COMPOSE["secrets"].values()} | {"./container/config.toml"}
    assert {f"./container/{path.name}" for path in made.iterdir()} == mounted
    env = {"CREDENTIALS_DIRECTORY": str(made), "RUNBRIDGE_SERVER__LISTEN": "0.0.0.0:8484"}
    config = load_config(made / "config.toml", env=env)
    assert "@postgres/runbridge" in config.database.url
    nodes = [service for name, service in COMPOSE["services"].items() if name.startswith("runbridge")]
    assert len(nodes) == 2
    assert all(node["read_only"] and node["cap_drop"] == ["ALL"] for node in nodes)
    assert all(node["depends_on"]["postgres"] == {"condition": "service_healthy"} for node in nodes)
