"""The dashboard's JSDoc types, checked by TypeScript against types that are generated from the API's own description."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge.api.openapi import build_document

HERE = Path(__file__).resolve().parent
WEB = HERE.parent.parent / "bridge" / "web"
OPTIONS = (
    "--noEmit --allowJs --checkJs --strict --skipLibCheck --target es2023 --lib es2023,dom,dom.iterable "
    "--module esnext --moduleResolution bundler"
)


@pytest.fixture(scope="module")
def project(npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts with the types of the API and of Preact beside them."""
    folder = tmp_path_factory.mktemp("types")
    for script in WEB.glob("*.js"):
        shutil.copy(script, folder)
    shutil.copy(HERE / "preact.d.ts", folder)
    (folder / "openapi.json").write_text(json.dumps(build_document("1.2.3")))
    generate = [npm / ".bin" / "openapi-typescript", "openapi.json", "--output", "openapi.d.ts"]
    subprocess.run(generate, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


def errors(project: Path, npm: Path, script: str) -> str:
    """The errors of TypeScript in this script and in all that it imports."""
    command = [npm / ".bin" / "tsc", *OPTIONS.split(), script]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False).stdout


@pytest.mark.slow
def test_the_scripts_agree_with_the_description_of_the_api(project: Path, npm: Path) -> None:
    assert errors(project, npm, "app.js") == ""


@pytest.mark.slow
def test_a_field_that_the_api_does_not_have_is_found(project: Path, npm: Path) -> None:
    column = (project / "runs.js").read_text().replace("run.provider_run_id", "run.provider_run_uid")
    (project / "wrong.js").write_text(column)
    assert "'provider_run_uid' does not exist" in errors(project, npm, "wrong.js")
