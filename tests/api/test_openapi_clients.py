"""Tools that read the OpenAPI document: Redocly's rules, and clients generated from it against the running daemon."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.sandbox import Sandbox, Scenario
from tests.support.api_bridge import DOCUMENT
from tests.support.daemon_process import TOKEN, DaemonProcess

PATIENCE_S = 240.0
NPM_PACKAGES = ("@redocly/cli@2.77.0", "openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3",
                "@types/node@20.19.43")  # fmt: skip

pytestmark = pytest.mark.slow  # each starts programs; npm packages are fetched once

PYTHON_CLIENT = """
import sys
from runbridge_client import AuthenticatedClient
from runbridge_client.api.endpoints import create_endpoint, delete_endpoint
from runbridge_client.api.runs import list_runs, register_run, show_run, wait_for_run
from runbridge_client.models import EndpointBody, EventType, ProblemAnswer, RunBody, RunBodyMetadataType0, RunStatus

url, token, theirs = sys.argv[1:]
with AuthenticatedClient(base_url=url, token=token) as client:
    metadata = RunBodyMetadataType0.from_dict({"order": 4711})
    body = RunBody(connection="dify", provider_run_id=theirs, metadata=metadata)
    registered = register_run.sync_detailed(client=client, body=body, idempotency_key="one")
    assert registered.status_code == 201, registered
    run = wait_for_run.sync(registered.parsed.id, client=client, timeout=60)
    assert (run.status, run.settled, run.metadata["order"]) == (RunStatus.SUCCEEDED, True, 4711), run
    assert run.observed_at.tzinfo is not None
    shown = show_run.sync(run.id, client=client)
    assert shown.events[-1].type_ is EventType.RUN_FINISHED, shown
    assert [one.id for one in list_runs.sync(client=client, status=[RunStatus.SUCCEEDED]).data] == [run.id]
    endpoint = create_endpoint.sync(client=client, body=EndpointBody(url="https://app.example.org/hooks"))
    assert endpoint.secret.startswith("whsec_")
    assert delete_endpoint.sync_detailed(endpoint.id, client=client).status_code == 204
    problem = register_run.sync(client=client, body=RunBody(connection="dyfi", provider_run_id="x"))
    assert isinstance(problem, ProblemAnswer) and problem.errors[0].field == "connection", problem
print(problem.errors[0].field)
"""

TYPESCRIPT_CLIENT = """
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

const [url, token, theirs] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });

async function main(): Promise<void> {
  const body = { connection: "dify", provider_run_id: theirs! };
  const registered = await client.POST("/v1/runs", { body });
  assert.equal(registered.response.status, 201);
  const id = registered.data!.id;
  const { data: run } = await client.GET("/v1/runs/{id}/wait", { params: { path: { id }, query: { timeout: 60 } } });
  const status: components["schemas"]["RunStatus"] = run!.status;
  assert.equal(status, "succeeded");
  const { data: page } = await client.GET("/v1/runs", { params: { query: { status: ["succeeded"], limit: 5 } } });
  assert.ok(page!.data.some((one) => one.id === id));
  const { data: feed } = await client.GET("/v1/events", { params: { query: { run_id: id } } });
  assert.equal(feed!.data.at(-1)!.type, "run.finished");
  const { error } = await client.POST("/v1/runs", { body: { ...body, connection: "dyfi" } });
  assert.equal(error!.errors[0]!.field, "connection");
  console.log(error!.errors[0]!.field);
}

void main();
"""


@pytest.fixture(scope="session")
def npm_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm packages of these tests."""
    folder = tmp_path_factory.mktemp("npm-tools")
    run("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *NPM_PACKAGES, folder=folder)
    return folder


def run(*command: str, folder: Path) -> str:
    """The output of the program, which must succeed."""
    path = f"{Path(sys.executable).parent}:{folder / 'node_modules' / '.bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_document_passes_the_recommended_rules_of_redocly(npm_tools: Path) -> None:
    (npm_tools / "openapi.json").write_text(json.dumps(DOCUMENT))
    said = run("redocly", "lint", "openapi.json", "--extends", "recommended", folder=npm_tools)
    assert "Your API description is valid" in said
    assert "warning" not in said.replace("Deprecation warning", "")


async def test_generated_clients_in_python_and_typescript_work_against_the_daemon(
    tmp_path: Path, npm_tools: Path
) -> None:
    said = []
    async with Sandbox() as sandbox:
        daemon = DaemonProcess(tmp_path)
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        async with daemon:
            document = npm_tools / "served.json"
            document.write_text(json.dumps(await daemon.ask("GET", "/openapi.json")))
            for prepare, folder in ((python_client, tmp_path), (typescript_client, npm_tools)):
                theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=1))
                command = await asyncio.to_thread(prepare, document, folder)
                said.append(await asyncio.to_thread(run, *command, daemon.url, TOKEN, theirs, folder=folder))
            await daemon.stop()
    assert [text.split()[-1] for text in said] == ["connection", "connection"]  # the field of the last answer


def python_client(document: Path, folder: Path) -> list[str]:
    """The command that runs the client; `--fail-on-warning`: nothing of the document is left out."""
    output = ("--meta", "none", "--output-path", "runbridge_client", "--fail-on-warning")
    run("openapi-python-client", "generate", "--path", str(document), *output, folder=folder)
    (folder / "client.py").write_text(PYTHON_CLIENT)
    return [sys.executable, "client.py"]


def typescript_client(document: Path, folder: Path) -> list[str]:
    """The command that runs the client, compiled with every strict check."""
    run("openapi-typescript", str(document), "--output", "api.d.ts", "--default-non-nullable", "false", folder=folder)
    (folder / "client.ts").write_text(TYPESCRIPT_CLIENT)
    strict = ("--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022")
    run("tsc", *strict, "client.ts", folder=folder)
    return ["node", "client.js"]
