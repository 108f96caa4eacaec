"""The wheel and the sdist: the same bytes twice, everything inside, and they install."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.manual import block

ROOT = Path(__file__).resolve().parents[2]


def copy_of_the_tree(folder: Path) -> Path:
    """The files that git tracks, as a builder would check them out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def build(folder: Path) -> dict[str, Path]:
    copy = copy_of_the_tree(folder)
    done = subprocess.run([sys.executable, "deploy/dist.py"], cwd=copy, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.suffix: path for path in (copy / "dist").iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    again = build(tmp_path)
    assert {suffix: digest(path) for suffix, path in built.items()} == {
        suffix: digest(path) for suffix, path in again.items()
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(built: dict[str, Path]) -> None:
    """Migrations, definitions and pages are data, which a packaging tool easily leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "bridge"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    there = [name for name in listed if (ROOT / name).is_file()]
    with zipfile.ZipFile(built[".whl"]) as wheel:
        assert sorted(set(there) - set(wheel.namelist())) == []
        assert "bridge/py.typed" in wheel.namelist()


def test_the_list_of_libraries_is_that_of_the_requirements(built: dict[str, Path]) -> None:
    pinned = dict(
        re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    )
    with zipfile.ZipFile(built[".whl"]) as wheel:
        [name] = [name for name in wheel.namelist() if "/sboms/" in name]
        listed = json.loads(wheel.read(name))["components"]
    assert {one["name"]: one["version"] for one in listed} == pinned


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(built[".gz"]) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=source, check=True)
    [wheel] = (source / "dist").iterdir()
    assert digest(wheel) == digest(built[".whl"])


def test_a_tag_that_names_another_version_stops_the_build(tmp_path: Path) -> None:
    copy = copy_of_the_tree(tmp_path)
    me = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "requirements"], [*me, "commit", "-qm", "x"], ["tag", "v99.0.0"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    done = subprocess.run([sys.executable, "deploy/dist.py"], cwd=copy, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "v99.0.0" in done.stderr
    assert not (copy / "dist").exists()


def test_a_file_that_git_does_not_know_stops_the_build(tmp_path: Path) -> None:
    """The sdist holds the whole folder: a configuration with its token would be published with it."""
    copy = copy_of_the_tree(tmp_path)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    (copy / "my token.toml").write_text("api_token = 'a'\n")
    done = subprocess.run([sys.executable, "deploy/dist.py"], cwd=copy, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "my token.toml" in done.stderr
    assert not (copy / "dist").exists()


@pytest.mark.slow
def test_the_wheel_installs_as_the_page_says_and_speaks_of_its_own_command(
    built: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "dist").mkdir()
    shutil.copy(built[".whl"], tmp_path / "dist")
    env = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "UV_PYTHON": sys.executable,
    }
    own = "from bridge.sandbox.demo import own_command; print(own_command())"
    shown = f"{block('install-uv')}runbridge --version\ntools/runbridge/bin/python -c '{own}'\n"
    done = subprocess.run(
        ["sh", "-euc", shown], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    version, command = done.stdout.splitlines()[-2:]
    assert version.startswith("runbridge ")
    assert command == "runbridge"
