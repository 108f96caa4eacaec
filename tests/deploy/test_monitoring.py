"""The shipped alerts and the dashboard, evaluated by Prometheus itself, and what the manual says of the metrics."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.installation import TOKEN, Installation, installation
from tests.support.ports import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "contrib/prometheus/alerts.yaml"
DASHBOARD = ROOT / "contrib/grafana/runbridge.json"
ONLY_WHEN_CONFIGURED = {
    "runbridge_lists_total", "runbridge_runs_discovered_total", "runbridge_retention_rows_deleted_total",
    "runbridge_alerts_total",
}  # fmt: skip
MANUAL = ROOT / "docs/monitoring.md"
RULES = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}


@dataclass(frozen=True)
class Watched:
    """A daemon, the id of an endpoint whose receiver refuses, and a Prometheus that scrapes the daemon."""

    daemon: Installation
    broken: str
    prometheus: str

    def metrics(self) -> str:
        request = urllib.request.Request(f"{self.daemon.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def ask(self, path: str, **query: str) -> Any:
        """The answer of Prometheus."""
        with urllib.request.urlopen(f"{self.prometheus}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, port = tmp_path_factory.mktemp("monitoring"), free_port()
    with installation(folder) as daemon:
        made = call(daemon, "/v1/endpoints", {"url": f"http://127.0.0.1:{free_port()}/"})
        call(daemon, f"/v1/endpoints/{made['id']}/ping", {})
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {
                    "job_name": "runbridge",
                    "scrape_interval": "500ms",
                    "scrape_timeout": "500ms",
                    "authorization": {"credentials": TOKEN},
                    "static_configs": [{"targets": [daemon.url.removeprefix("http://")]}],
                }
            ],
        }
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(config))
        command = [
            "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stderr=log) as prometheus:
            try:
                yield Watched(daemon, made["id"], f"http://127.0.0.1:{port}")
            finally:
                prometheus.terminate()


def call(daemon: Installation, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


@pytest.mark.slow
def test_prometheus_finds_the_endpoint_whose_receiver_refuses(watched: Watched) -> None:
    def failing() -> list[str]:
        try:
            alerts = watched.ask("/api/v1/alerts")["alerts"]
        except OSError:  # Prometheus is still starting
            return []
        return [
            each["labels"]["endpoint"] for each in alerts if each["labels"]["alertname"] == "RunbridgeEndpointFailing"
        ]

    assert wait_until(failing, timeout_s=120, what="the alert") == [watched.broken]


@pytest.mark.slow
def test_every_query_of_the_dashboard_is_answered_and_names_metrics_that_there_are(watched: Watched) -> None:
    run = watched.daemon.add_run(
        duration_s=5
    )  # of one that was not seen running, it is unknown how late its end was seen
    call(watched.daemon, "/v1/runs", {"connection": "dify-prod", "provider_run_id": run})
    wait_until(lambda: "runbridge_noticed_delay_seconds_bucket" in watched.metrics(), timeout_s=60, what="its end")
    wait_until(lambda: is_up(watched), timeout_s=120, what="a scrape")
    exposed = watched.metrics()
    queries = [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", ())
    ]
    for query in [*queries, *(rule["expr"] for rule in RULES.values())]:
        filled = query.replace("$__rate_interval", "1m").replace("$endpoint", ".*").replace("$connection", ".*")
        watched.ask("/api/v1/query", query=filled)  # an HTTPError for one that cannot be read
        for name in re.findall(r"\b(?:runbridge|process)_\w+", query):
            assert f"\n{name}" in exposed or name in ONLY_WHEN_CONFIGURED, f"{query} reads {name}, which there is not"


def is_up(watched: Watched) -> bool:
    try:
        return bool(watched.ask("/api/v1/query", query='up{job="runbridge"} == 1')["result"])
    except OSError:
        return False


@pytest.mark.slow
def test_promtool_has_no_complaint_about_the_metrics(watched: Watched) -> None:
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=watched.metrics(), capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_manual_names_every_metric_and_no_other(watched: Watched) -> None:
    exposed = set(re.findall(r"^# TYPE (\w+) ", watched.metrics(), re.MULTILINE))
    exposed = {name for name in exposed if not name.endswith("_created")}
    table = MANUAL.read_text().partition("## Metrics")[2]
    named = {name for name in re.findall(r"`((?:runbridge|process)_\w+)`", table) if name != "runbridge_"}
    assert exposed - named == set(), "docs/monitoring.md does not name these"
    assert named - exposed <= ONLY_WHEN_CONFIGURED


def test_every_alert_says_what_to_do_and_links_to_a_section_that_exists() -> None:
    for name, rule in RULES.items():
        notes = rule["annotations"]
        assert notes["summary"], name
        assert notes["description"], name
        file, _, anchor = notes["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}, name
        assert rule["labels"]["severity"] in ("critical", "warning"), name


# Each alert: a series (a minute a value), when it does not fire yet, and when it does.
TIMES: dict[str, tuple[str, str, str, str]] = {
    "RunbridgeDown": ('up{job="runbridge"}', "1 0x20", "2m", "4m"),
    "RunbridgeNotReady": ('runbridge_ready{check="database"}', "1 1 0x20", "3m", "5m"),
    "RunbridgeConnectionFailing": ('runbridge_connection_failing{connection="c"}', "0 1x20", "1m", "3m"),
    "RunbridgeConnectionOverCapacity": ('runbridge_connection_over_capacity_ratio{connection="c"}', "1 2x30", "10m", "17m"),
    "RunbridgeEndpointDisabled": ('runbridge_endpoint_enabled{endpoint="e"}', "1 1 0x20", "1m", "3m"),
    "RunbridgeEndpointFailing": ('runbridge_endpoint_failing{endpoint="e"}', "0 1x30", "9m", "12m"),
    "RunbridgeMemoryLow": ("runbridge_memory_available_bytes", "2e9 5e7x20", "1m", "3m"),
    "RunbridgeConnectionUnsteady": ('runbridge_polls_total{connection="c",outcome="dns"}', "0+1x40", "9m", "15m"),
    "RunbridgeEndpointUnsigned": (
        'runbridge_endpoint_failures_total{endpoint="e",outcome="unsigned"}', "0 0 1x20", "1m", "3m",
    ),
    "RunbridgeEndpointRefuses": (
        'runbridge_endpoint_failures_total{endpoint="e",outcome="client_error"}', "0 0 1x20", "1m", "3m",
    ),
    "RunbridgeEndpointUnsteady": (
        'runbridge_endpoint_attempts_total{endpoint="e",result="failed"}', "0+1x40", "9m", "15m",
    ),
    "RunbridgeEndpointFilterFails": ('runbridge_endpoint_filter_errors_total{endpoint="e"}', "0 0 1x20", "1m", "3m"),
    "RunbridgeDeliveriesLate": ('runbridge_endpoint_oldest_due_seconds{endpoint="e"}', "0 60+60x30", "6m", "12m"),
    "RunbridgeDeliveriesExhausted": (
        'runbridge_endpoint_kept_deliveries{endpoint="e",state="exhausted"}', "5 5 6x20", "1m", "3m",
    ),
    "RunbridgeDiskFull": ("runbridge_disk_free_bytes", "2e9 5e8x20", "1m", "3m"),
    "RunbridgeBackupFailed": ('runbridge_backups_total{outcome="failed"}', "0 0 1x20", "1m", "3m"),
    "RunbridgeAlertsFail": ('runbridge_alerts_total{channel="c",outcome="failed"}', "0 0 1x20", "1m", "3m"),
    "RunbridgeConfigRefused": ("runbridge_config_last_reload_successful", "1 1 0x20", "1m", "3m"),
    "RunbridgeFilesRunOut": ('process_open_fds{job="runbridge"}', "10 900x20", "3m", "8m"),
    "RunbridgeWrongTokens": ('runbridge_wrong_tokens_total{at="request"}', "0 1 2+20x20", "1m", "8m"),
    "RunbridgeStatusUnknown": ('runbridge_status_unmapped_total{connection="c"}', "0 0 1x20", "1m", "3m"),
    "RunbridgeBusy": ('runbridge_loop_lag_seconds_bucket{le="0.5"}', "0+12x40", "5m", "25m"),
}  # fmt: skip
BESIDE = {  # what the expression reads, too
    "RunbridgeConnectionUnsteady": [
        ('runbridge_polls_total{connection="c",outcome="observed"}', "0+3x40"),
        ('runbridge_connection_failing{connection="c"}', "0x40"),
    ],
    "RunbridgeEndpointRefuses": [('runbridge_endpoint_failing{endpoint="e"}', "0x40")],
    "RunbridgeEndpointUnsteady": [
        ('runbridge_endpoint_attempts_total{endpoint="e",result="delivered"}', "0+3x40"),
        ('runbridge_endpoint_failing{endpoint="e"}', "0x40"),
    ],
    "RunbridgeFilesRunOut": [('process_max_fds{job="runbridge"}', "1000x40")],
    "RunbridgeBusy": [
        ('runbridge_loop_lag_seconds_bucket{le="0.1"}', "0x40"),
        ('runbridge_loop_lag_seconds_bucket{le="+Inf"}', "0+12x40"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["RunbridgeConnectionUnsteady", "RunbridgeEndpointRefuses", "RunbridgeEndpointUnsteady"]
)
def test_what_fails_wholly_raises_one_alert(name: str, tmp_path: Path) -> None:
    """The alert says that it fails, and no second one says that it often does."""
    series = [*BESIDE[name], (TIMES[name][0], TIMES[name][1])]
    failing = [(one, "1x40" if "failing" in one else values) for one, values in series]
    result = check_rules(tmp_path, [alert_test(name, failing, {"3m": 0, "15m": 0, "25m": 0})])
    assert result.returncode == 0, result.stdout + result.stderr


def alert_test(name: str, series: list[tuple[str, str]], firing: dict[str, int]) -> dict[str, Any]:
    """How many of this alert fire at some times, as promtool wants it."""
    expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": count}] if count else [],
            }
            for at, count in firing.items()
        ],
    }


def check_rules(folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """promtool runs the clock."""
    file = folder / "test.yaml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    return subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    assert set(TIMES) == set(RULES)
    tests = [
        alert_test(name, [(series, values), *BESIDE.get(name, ())], {early: 0, late: 1})
        for name, (series, values, early, late) in TIMES.items()
    ]
    result = check_rules(tmp_path, tests)
    assert result.returncode == 0, result.stdout + result.stderr
