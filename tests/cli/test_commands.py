"""The rules that hold for every command: exit codes, no traceback, help without loading everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from bridge.cli import commands
from bridge.domain.errors import BridgeError
from tests.support.installation import RUNBRIDGE
from tests.support.ports import free_port
from tests.support.stub_server import StubResponse, stub_server

NOWHERE = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}


def _all_commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None, name
        found.append((*prefix, name))
        if isinstance(command, click.Group):
            found += _all_commands(command, (*prefix, name))
    return found


ALL = _all_commands(commands.runbridge)


def test_the_table_holds_every_command_that_the_contract_names():
    promised = """serve; init; config check; config show; doctor; demo; listen; verify; trigger; guard explain
        runs add; runs list; runs show; runs wait; runs watch; runs cancel; runs rm
        endpoints add; endpoints list; endpoints show; endpoints ping; endpoints rotate-secret
        endpoints enable; endpoints disable; endpoints rm; endpoints replay
        events list; events show; events replay; events tail; deliveries list; deliveries show; deliveries retry
        connections list; connections check; providers list; providers show; providers check
        db upgrade; db check; db backup"""
    wanted = {tuple(words.split()) for line in promised.splitlines() for words in line.split(";")}
    assert wanted <= set(ALL)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself(cli, words):
    result = cli(*words, "--help")
    assert result.code == 0
    assert "Usage: runbridge" in result.out


def test_version_names_python_and_sqlite_too(cli):
    result = cli("--version")
    assert result.code == 0
    assert result.out.startswith("runbridge ")
    assert "Python 3." in result.out
    assert "SQLite 3." in result.out


@pytest.mark.slow
def test_help_loads_neither_the_database_nor_the_providers():
    """A person waits for it at every completion and --help."""
    code = (
        "import sys; from bridge.cli import main; main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'aiohttp', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_daemon_on_sqlite_loads_nothing_that_it_does_not_need(tmp_path: Path):
    """Each is some megabytes at rest, and some tens of milliseconds of every start."""
    config = tmp_path / "config.toml"
    config.touch(0o600)
    config.write_text('[server]\napi_token = "t"\n[database]\nurl = "sqlite:////proc/none/runbridge.db"\n')
    code = (
        f"import sys; from bridge.cli import main; print(main(['serve', '--config', {str(config)!r}])); "
        "print(*(name for name in ('alembic', 'asyncpg', 'rich.console', 'sqlalchemy.dialects.postgresql.base', "
        "'aiosmtplib', 'bridge.sandbox', 'bridge.daemon') if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert result.stdout.split() == ["1", "bridge.daemon"], result.stderr


@pytest.mark.parametrize(("words", "said"), [(["runz"], "runs"), (["runs", "lst"], "list")], ids=" ".join)
def test_a_wrong_word_is_wrong_use_with_a_suggestion(cli, words, said):
    result = cli(*words)
    assert result.code == 2
    assert f"Did you mean '{said}'?" in result.err


def test_a_missing_argument_is_wrong_use(cli):
    assert cli("runs", "add", "only-a-connection").code == 2


def test_an_unreachable_daemon_gives_3_and_one_sentence_with_the_remedy(cli, monkeypatch):
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RUNBRIDGE_URL", url)
    for words in (["runs", "list"], ["events", "tail"], ["runs", "watch"], ["endpoints", "ping", "x"]):
        result = cli(*words)
        assert result.code == 3
        assert result.out == ""
        assert result.err.count("\n") == 1
        assert url in result.err
        assert "runbridge serve" in result.err


def test_without_any_configuration_the_default_address_is_tried(cli):
    result = cli("runs", "list")
    assert result.code in (1, 3)  # 1 where another daemon listens there
    assert "127.0.0.1:8484" in result.err


@pytest.mark.slow
def test_ctrl_c_ends_a_command_with_130_and_no_word():
    with stub_server(lambda request: StubResponse(body=b'{"data": [], "next_cursor": null}')) as daemon:
        child = subprocess.Popen(
            [*RUNBRIDGE, "runs", "watch", "--url", daemon.url],
            env=NOWHERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while not daemon.requests:
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err.strip()) == (130, b"", b"")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["runs", "list", "--json"], ["events", "list"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_reason_to_complain(words):
    """`runbridge events tail | head -1`."""
    rows = b",".join(b'{"id":"evt_%d","timestamp":"","type":"bridge.ping","data":{}}' % number for number in range(500))
    with stub_server(lambda request: StubResponse(body=b'{"data":[%b],"next_cursor":null}' % rows)) as daemon:
        reading, writing = os.pipe()
        child = subprocess.Popen(
            [*RUNBRIDGE, *words, "--url", daemon.url], env=NOWHERE, stdout=writing, stderr=subprocess.PIPE
        )
        os.close(writing)
        os.close(reading)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, b"")


@pytest.mark.parametrize("fault", [KeyError("id"), PermissionError(13, "Permission denied", "/x"), BridgeError("no")])
def test_whatever_goes_wrong_is_one_line_and_never_a_traceback(cli, monkeypatch, fault):
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(commands.runbridge, "main", fail)
    result = cli("runs", "list")
    assert result.code == 1
    assert result.err.startswith("runbridge: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err


def test_a_fault_of_our_own_is_placed_and_its_text_kept_back(cli, monkeypatch):
    """A database's complaint holds the values of the row."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("INSERT INTO endpoints VALUES ('whsec_secret')")

    monkeypatch.setattr("bridge.cli.runs.print_page", fail)
    with stub_server(lambda request: StubResponse()) as daemon:
        result = cli("runs", "list", "--json", "--url", daemon.url)
    assert result.code == 1
    assert "RuntimeError at runs.py:" in result.err
    assert "whsec_" not in result.err


def _completions(line: str) -> list[str]:
    """The values offered for the last word of `line`."""
    *words, incomplete = line.split(" ")
    completer = BashComplete(commands.runbridge, {}, "runbridge", "_RUNBRIDGE_COMPLETE")
    return [item.value for item in completer.get_completions(words, incomplete)]


def test_a_shell_completes_commands_and_event_types(cli):
    assert _completions("run") == ["runs"]
    assert _completions("endpoints add http://x --events run.f") == ["run.finished"]
    assert _completions("listen --events run.started,run.f") == ["run.started,run.finished"]


def test_a_shell_completes_names_that_the_daemon_lists(cli, monkeypatch):
    listed = {"/v1/runs": "run_1", "/v1/connections": "dify-prod", "/v1/endpoints": "my-app"}

    def respond(request):
        row = {**dict.fromkeys(("id", "name"), listed[request.path]), "provider_run_id": "theirs"}
        return StubResponse(body=json.dumps({"data": [row], "next_cursor": None}).encode())

    with stub_server(respond) as daemon:
        monkeypatch.setenv("RUNBRIDGE_URL", daemon.url)
        for line, offered in {
            "runs show ": "run_1",
            "runs wait run_1 r": "run_1",
            "runs poll th": "theirs",
            "deliveries list --run run": "run_1",
            "runs add d": "dify-prod",
            "runs list --connection ": "dify-prod",
            "connections check ": "dify-prod",
            "endpoints ping m": "my-app",
            "trigger bridge.ping --endpoint ": "my-app",
        }.items():
            assert _completions(line) == [offered], line
        assert _completions("runs show x") == []
        assert daemon.requests[-1].target == "/v1/runs?limit=50&q=x"


def test_completion_without_a_daemon_offers_nothing(cli, monkeypatch):
    for url in (f"http://127.0.0.1:{free_port()}", "no address at all"):
        monkeypatch.setenv("RUNBRIDGE_URL", url)
        assert _completions("runs show ") == []


@pytest.mark.slow
def test_bash_gets_completions_without_any_error():
    env = {"_RUNBRIDGE_COMPLETE": "bash_complete", "COMP_WORDS": "runbridge run", "COMP_CWORD": "1", **NOWHERE}
    done = subprocess.run(RUNBRIDGE, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["plain,runs"], "")


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_option_has_a_help_text(words):
    command: click.Command = commands.runbridge
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.opts for option in options if not option.help] == []


def test_json_may_stand_before_the_command_as_well(bridge):
    assert "data" in bridge("--json", "runs", "list").json


def test_a_wrong_token_gives_1_and_says_which_one_was_used(bridge, running):
    result = bridge("runs", "list", "--token", "wrong")
    assert result.code == 1
    assert "--token" in result.err
    assert "wrong " not in result.err


def test_address_and_token_are_found_in_the_configuration_file(cli, running):
    assert cli("runs", "list", "--config", running.config).code == 0
