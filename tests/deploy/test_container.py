"""The container image, the compose file and the Kubernetes manifests: what can be seen of them without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bridge.config.load import load_config
from tests.support.manual import ROOT, block

MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/runbridge.yaml").read_text(encoding="utf-8")))
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


def test_the_probes_ask_what_the_daemon_answers() -> None:
    (deployment,) = (one for one in MANIFESTS if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for probe in probes)


def test_the_configuration_of_the_manifests_loads_with_the_secret_of_the_page(tmp_path: Path) -> None:
    (config_map,) = (one for one in MANIFESTS if one["kind"] == "ConfigMap")
    (tmp_path / "config.toml").write_text(config_map["data"]["config.toml"])
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    shown = "\n".join(
        f"printf %s {value.rstrip(chr(92)).strip()} > '{name}'"
        for name, value in re.findall(r"--from-literal=([\w.-]+)=(.+)", page)
    )
    subprocess.run(["sh", "-euc", shown.replace("…", "x")], cwd=tmp_path, timeout=60, check=True)
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
