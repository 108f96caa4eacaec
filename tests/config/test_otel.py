"""[otel]: where spans go, what else switches them on and off, and every mistake in saying so."""

import sys
from pathlib import Path

import pytest

from bridge.config.show import show_config
from bridge.config.values import header_list
from bridge.domain.secret import Secret
from tests.config.config_files import TOKEN, load, mistakes

COLLECTOR = f'{TOKEN}[otel]\nendpoint = "http://127.0.0.1:4318/"\n'


def test_no_spans_are_sent_unless_a_collector_is_named(tmp_path: Path):
    assert load(tmp_path, TOKEN).otel is None
    assert load(tmp_path, f'{TOKEN}[otel]\nservice_name = "a"\n').otel is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_a_standard_variable_names_one_too(tmp_path: Path, name: str):
    assert load(tmp_path, TOKEN, env={name: "http://127.0.0.1:4318"}).otel is not None


@pytest.mark.parametrize("env", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_a_standard_variable_switches_it_off(tmp_path: Path, env: dict[str, str]):
    assert load(tmp_path, COLLECTOR, env=env).otel is None


def test_headers_are_read_as_the_standard_variable_and_never_shown(tmp_path: Path):
    config = load(tmp_path, f'{COLLECTOR}headers = "X-Key=canary%20a,y=b=c"\n')
    assert config.otel is not None
    assert config.otel.headers is not None
    assert header_list(config.otel.headers) == {"x-key": "canary a", "y": "b=c"}
    shown = {row.key: row.value for row in show_config(config)}
    assert (shown["otel.endpoint"], shown["otel.headers"]) == ("http://127.0.0.1:4318", "****")


@pytest.mark.parametrize("given", ["canary", "a=1,canary", "a b=canary", "a=canary%0d%0ab: c", "=canary"])
def test_a_header_that_cannot_be_sent_is_a_mistake_that_shows_no_value(given: str):
    with pytest.raises(ValueError, match=r".") as caught:
        header_list(Secret(given))
    assert "canary" not in str(caught.value)


def test_every_mistake_is_named(tmp_path: Path):
    text = f'{TOKEN}[otel]\nendpoint = "127.0.0.1:4318"\nheaders = "nonsense"\nservice_name = ""\n'
    assert set(mistakes(tmp_path, text)) == {"otel.endpoint", "otel.headers", "otel.service_name"}


def test_without_the_extra_the_file_is_refused_and_the_environment_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A collector that a cluster names for every process must not keep the daemon from starting."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2])])  # where nothing is installed
    said = f'needs libraries that are not installed: {sys.executable} -m pip install "runbridge[otel]"'
    assert mistakes(tmp_path, COLLECTOR) == {"otel.endpoint": said}
    config = load(tmp_path, TOKEN, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert config.otel is None
    assert said in [warning.message for warning in config.warnings]
