"""The manual's receivers, run as they stand against the daemon's own deliveries, replays and forgeries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from bridge.domain.event import EventType
from bridge.domain.signing.hmac_v1 import new_secret, secret_key, signature_headers
from bridge.sandbox.scenarios import Scenario
from bridge.sandbox.server import Sandbox
from tests.support.cgi_server import CgiServer
from tests.support.daemon_process import DaemonProcess
from tests.support.manual import block
from tests.support.ports import free_port, listens
from tests.support.waiting import until

EVENT_TYPES = {member.value for member in EventType}
START_S = 60.0
INSTALL_S = 240.0
BUILD_S = 540.0
PYTHON_FRAMEWORKS = ("fastapi", "uvicorn", "django", "flask", "gunicorn", "aiohttp", "standardwebhooks")

pytestmark = pytest.mark.slow  # each test starts a receiver, some a daemon


@dataclass(frozen=True)
class SnippetReceiver:
    """A snippet that listens at `url`; `received` returns the types of the events that it accepted."""

    url: str
    received: Callable[[], list[str]]


Opening = Callable[[Path, str, pytest.FixtureRequest], contextlib.AbstractAsyncContextManager[SnippetReceiver]]


def node(name: str) -> Opening:
    """A receiver in JavaScript: a program of its own."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path, secret: str, request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
        script = request.getfixturevalue("node_folder") / f"{name}.mjs"
        script.write_text(block(name))
        async with program(("node", str(script)), folder, secret) as receiver:
            yield receiver

    return opened


def python(name: str, *server: str, more: dict[str, str] | None = None) -> Opening:
    """A receiver in Python, in the server that its page names; `PORT` stands for the port, `more` for further files."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path, secret: str, request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
        for file, text in {"receiver.py": block(name), **(more or {})}.items():
            (folder / file).write_text(text)
        command = (str(request.getfixturevalue("frameworks")), *server)
        async with program(command, folder, secret) as receiver:
            yield receiver

    return opened


@pytest.fixture(scope="session")
def frameworks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the frameworks of the page."""
    folder = tmp_path_factory.mktemp("frameworks")
    uv = (sys.executable, "-m", "uv")
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True, timeout=INSTALL_S)
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *PYTHON_FRAMEWORKS],
        check=True,
        timeout=INSTALL_S,
    )
    return folder / "bin/python"


@contextlib.asynccontextmanager
async def program(command: Sequence[str], folder: Path, secret: str) -> AsyncIterator[SnippetReceiver]:
    output, port = folder / "received.txt", free_port()
    with output.open("wb") as received:
        process = await asyncio.create_subprocess_exec(
            *(word.replace("PORT", str(port)) for word in command),
            cwd=folder,
            stdout=received,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "MY_APP_WEBHOOK_SECRET": secret, "PORT": str(port), "PYTHONPATH": str(folder)},
            start_new_session=True,
        )
    try:
        await until(lambda: listens(port), timeout_s=START_S, what="a start of the receiver")
        yield SnippetReceiver(
            f"http://127.0.0.1:{port}/hooks",
            lambda: [word for word in output.read_text().split() if word in EVENT_TYPES],
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers
        await process.wait()


def files(texts: dict[str, str], *command: str, path: str = "/hooks") -> Opening:
    """A receiver at `path`, made of these files and started by this command; `PORT` stands for the port."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path, secret: str, _request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
        for file, text in texts.items():
            (folder / file).write_text(text)
        async with program(command, folder, secret) as receiver:
            yield replace(receiver, url=receiver.url.removesuffix("/hooks") + path)

    return opened


@contextlib.asynccontextmanager
async def shell_receiver(folder: Path, secret: str, _request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
    script, inbox = folder / "hooks.cgi", folder / "inbox"
    script.write_text(block("receiver-shell"))
    inbox.mkdir()
    env = {"MY_APP_WEBHOOK_SECRET": secret, "INBOX": str(inbox), "PATH": os.environ["PATH"]}
    async with CgiServer(script, env) as server:
        yield SnippetReceiver(
            server.url, lambda: [json.loads(path.read_bytes())["type"] for path in sorted(inbox.glob("*.json"))]
        )


def built(name: str, texts: dict[str, str], *steps: Sequence[str], start: Sequence[str]) -> Opening:
    """A receiver that is built once in a test run, from these files by these commands, and then started anywhere."""

    @contextlib.asynccontextmanager
    async def opened(_folder: Path, secret: str, request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
        project = request.getfixturevalue("projects") / name
        if not project.exists():
            for file, text in texts.items():
                (project / file).parent.mkdir(parents=True, exist_ok=True)
                (project / file).write_text(text)
            for step in steps:
                done = subprocess.run(step, cwd=project, capture_output=True, text=True, timeout=BUILD_S, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
        async with program(start, project, secret) as receiver:
            yield receiver

    return opened


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the receivers that are built."""
    return tmp_path_factory.mktemp("projects")


GUNICORN = ("-m", "gunicorn", "--bind", "127.0.0.1:PORT")
DJANGO = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(SECRET_KEY="x", ROOT_URLCONF="receiver", ALLOWED_HOSTS=["127.0.0.1"])
application = get_wsgi_application()
"""
RAILS = """
require "action_controller/railtie"

$stdout.sync = true

class Receiver < Rails::Application
  config.eager_load = false
  config.secret_key_base = "x" * 64
  config.logger = Logger.new(IO::NULL)
  config.hosts.clear
end

require_relative "hooks_controller"
Receiver.initialize!
Receiver.routes.draw { post "/hooks", to: "hooks#create" }
run Receiver
"""
LARAVEL = """<?php
require "/usr/share/php/Illuminate/autoload.php";

$app = new Illuminate\\Foundation\\Application(__DIR__);
$app->instance("config", new Illuminate\\Config\\Repository([
    "app" => ["env" => "production"],
    "cache" => ["default" => "file", "stores" => ["file" => ["driver" => "file", "path" => __DIR__ . "/cache"]]],
    "logging" => ["default" => "out", "channels" => ["out" => ["driver" => "single", "path" => "php://stdout"]]],
    "view" => ["paths" => [__DIR__], "compiled" => __DIR__],
]));
Illuminate\\Support\\Facades\\Facade::setFacadeApplication($app);
$app->register(Illuminate\\Filesystem\\FilesystemServiceProvider::class);
$app->register(Illuminate\\Cache\\CacheServiceProvider::class);
$app->register(Illuminate\\View\\ViewServiceProvider::class);
$app->boot();
Illuminate\\Support\\Facades\\Route::prefix("api")->group(__DIR__ . "/api.php");
$request = Illuminate\\Http\\Request::capture();
$app->instance("request", $request);
$app["router"]->dispatch($request)->send();
"""
RECEIVERS: dict[str, Opening] = {
    "python": python("receiver-python", "receiver.py"),
    "fastapi": python("receiver-fastapi", "-m", "uvicorn", "receiver:app", "--port", "PORT", "--no-access-log"),
    "django": python("receiver-django", *GUNICORN, "wsgi:application", more={"wsgi.py": DJANGO}),
    "flask": python("receiver-flask", *GUNICORN, "receiver:app"),
    "aiohttp": python("receiver-aiohttp", "receiver.py"),
    "node": node("receiver-node"),
    "express": node("receiver-express"),
    "hono": node("receiver-hono"),
    "rails": files(
        {"config.ru": RAILS, "hooks_controller.rb": block("receiver-rails")},
        *("puma", "--environment", "production", "--bind", "tcp://127.0.0.1:PORT", "config.ru"),
    ),
    "laravel": files(
        {"index.php": LARAVEL, "api.php": block("receiver-laravel")},
        *("php", "-S", "127.0.0.1:PORT", "index.php"),
        path="/api/hooks",
    ),
    "go": files({"receiver.go": block("receiver-go")}, "go", "run", "receiver.go"),
    "shell": shell_receiver,
}
NEXT_LAYOUT = """
export default function Layout({ children }) {
  return <html><body>{children}</body></html>;
}
"""
SPRING_APPLICATION = """package com.example.hooks;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;

@SpringBootApplication
class Application {
    public static void main(String[] arguments) {
        SpringApplication.run(Application.class, arguments);
    }
}
"""
SPRING_PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <parent>
    <groupId>org.springframework.boot</groupId>
    <artifactId>spring-boot-starter-parent</artifactId>
    <version>3.3.13</version>
  </parent>
  <groupId>com.example</groupId>
  <artifactId>hooks</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.springframework.boot</groupId>
      <artifactId>spring-boot-starter-web</artifactId>
    </dependency>
  </dependencies>
  <build>
    <plugins>
      <plugin>
        <groupId>org.springframework.boot</groupId>
        <artifactId>spring-boot-maven-plugin</artifactId>
      </plugin>
    </plugins>
  </build>
</project>
"""
JAVA = "src/main/java/com/example/hooks"
NEXT = built(
    "next",
    {"package.json": "{}", "app/layout.js": NEXT_LAYOUT, "app/hooks/route.js": block("receiver-next")},
    ("npm", "install", "--no-audit", "--no-fund", "next@16.4.6", "react@19", "react-dom@19", "standardwebhooks@1"),
    ("env", "NEXT_TELEMETRY_DISABLED=1", "npx", "next", "build"),
    start=("npx", "next", "start", "--hostname", "127.0.0.1", "--port", "PORT"),
)
SPRING = built(
    "spring",
    {
        "pom.xml": SPRING_PROJECT,
        f"{JAVA}/Application.java": SPRING_APPLICATION,
        f"{JAVA}/HooksController.java": block("receiver-spring"),
    },
    ("mvn", "--quiet", "--batch-mode", "package"),
    start=("java", "-jar", "target/hooks-1.jar", "--server.port=PORT", "--server.address=127.0.0.1"),
)
BUILT = {"next": NEXT, "spring": SPRING}
"""They are built first: only `make test-receivers` runs them."""
ALL = [*RECEIVERS, *(pytest.param(name, marks=pytest.mark.servers) for name in BUILT)]


@pytest.mark.parametrize("group", [RECEIVERS, pytest.param(BUILT, marks=pytest.mark.servers)], ids=["quick", "built"])
async def test_every_receiver_takes_in_every_delivery_once(
    group: dict[str, Opening], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The second arrival of an event, here a replay, is answered like the first and not acted upon again."""
    secret = new_secret()
    daemon = DaemonProcess(tmp_path)
    every = len(group)
    async with Sandbox() as sandbox, contextlib.AsyncExitStack() as stack:
        receivers = {}
        for name, opened in group.items():
            folder = tmp_path / name
            folder.mkdir()
            receivers[name] = await stack.enter_async_context(opened(folder, secret, request))
            daemon.add_endpoint(name, receivers[name].url, secret=secret)
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        async with daemon:
            theirs = sandbox.add_run(
                "dify", scenario=Scenario(duration_s=1, output={"text": "Zwölf Boxkämpfer – \u2028 ✓"}), age_s=60
            )
            run = await daemon.register("dify", theirs, metadata={"order": 4711})
            await daemon.finish_of(run["id"])
            await daemon.eventually("/v1/deliveries", lambda page: states(page) == ["delivered"] * every)
            (finished,) = await daemon.all_events(type="run.finished")
            await daemon.ask("POST", f"/v1/events/{finished['id']}/replay", {}, status=202)
            await daemon.eventually(
                "/v1/deliveries", lambda page: states(page, attempts=2 * every) == ["delivered"] * every
            )
            for name in receivers:
                ping = await daemon.ask("POST", f"/v1/endpoints/{name}/ping", {}, status=202)
                await daemon.eventually(
                    f"/v1/deliveries?event={ping['event_id']}", lambda page: states(page) == ["delivered"]
                )
            taken_in = {name: receiver.received() for name, receiver in receivers.items()}
            assert taken_in == {name: ["run.finished", "bridge.ping"] for name in receivers}
            await daemon.stop()


def states(page: dict[str, list[dict[str, object]]], attempts: int = 0) -> list[object]:
    """The states of the deliveries, once there were so many attempts in all."""
    made = sum(int(str(delivery["attempt_count"])) for delivery in page["data"])
    return [delivery["state"] for delivery in page["data"]] if made >= attempts else []


@pytest.mark.parametrize("language", ALL)
async def test_a_receiver_refuses_what_is_not_ours(
    language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    secret, now = new_secret(), int(time.time())
    body = json.dumps({"id": "evt_1", "type": "run.finished", "data": {"run": None}}).encode()
    key, other = secret_key(secret), secret_key(new_secret())
    genuine = signature_headers([key], "evt_1", now, body)
    forged = {
        "another secret": (signature_headers([other], "evt_1", now, body), body),
        "another body": (genuine, body.replace(b"finished", b"started")),
        "another id": (genuine | {"webhook-id": "evt_2"}, body),
        "too old": (signature_headers([key], "evt_1", now - 400, body), body),
        "from the future": (signature_headers([key], "evt_1", now + 400, body), body),
        "no time": (genuine | {"webhook-timestamp": "soon"}, body),
        "no signature": (genuine | {"webhook-signature": "v1"}, body),
        "no headers": ({}, body),
    }
    rotated = signature_headers([other, key], "evt_1", now, body)
    async with (RECEIVERS | BUILT)[language](tmp_path, secret, request) as receiver, aiohttp.ClientSession() as http:
        for what, (headers, sent) in forged.items():
            async with http.post(receiver.url, data=sent, headers=headers) as answer:
                assert answer.status == 401, what
        assert receiver.received() == []
        async with http.post(receiver.url, data=body, headers=rotated) as answer:
            assert answer.status == 204
        assert receiver.received() == ["run.finished"]
