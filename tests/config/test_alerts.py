"""[alerts.NAME]: channels, the events they carry, and mistakes in either."""

from pathlib import Path

from bridge.config.show import show_config
from bridge.domain.alert import AlertEvent, ChannelKind
from tests.config.config_files import TOKEN, load, mistakes

MAIL = """
[alerts.mail]
kind = "email"
url = "smtps://mail.example.org"
to = ["ops@example.org"]
from = "runbridge@example.org"
username = "runbridge"
password_env = "SMTP_PASSWORD"
"""
SLACK = """
[alerts.slack]
kind = "slack"
url_file = "slack-url"
events = ["connection.failing", "connection.recovered"]
"""


def test_channels_are_read_and_their_secrets_never_shown(tmp_path: Path):
    (tmp_path / "slack-url").write_text("https://hooks.slack.com/services/T0/B0/canary\n")
    config = load(tmp_path, TOKEN + MAIL + SLACK, env={"SMTP_PASSWORD": "password-canary"})
    mail, slack = config.alerts["mail"], config.alerts["slack"]
    assert (mail.kind, mail.to, mail.sender) == (ChannelKind.EMAIL, ("ops@example.org",), "runbridge@example.org")
    assert AlertEvent.DISK_FULL in mail.events
    assert slack.events == (AlertEvent.CONNECTION_FAILING, AlertEvent.CONNECTION_RECOVERED)
    shown = {row.key: row.value for row in show_config(config)}
    assert (shown["alerts.slack.url"], shown["alerts.mail.password"]) == ("****", "****")
    assert "canary" not in f"{shown}{config!r}"


def test_every_mistake_is_named_with_its_place_and_the_remedy(tmp_path: Path):
    text = f"""{TOKEN}
[alerts.a]
kind = "pager"
url = "https://example.org/"
[alerts.b]
kind = "email"
url = "mail.example.org"
from = "Runbridge <a@b>"
[alerts.c]
kind = "ntfy"
url = "http://169.254.169.254/topic"
to = ["ops@example.org"]
events = ["connection.failed"]
[alerts.d]
kind = "email"
url = "smtp://mail.example.org"
to = ["ops@example.org"]
from = "runbridge@example.org"
username = "me"
password = "secret"
[alerts.e]
kind = "slack"
token = "t"
"""
    found = mistakes(tmp_path, text)
    assert {"alerts.a.kind", "alerts.b.url", "alerts.b.to", "alerts.c.to", "alerts.d.password"} <= set(found)
    assert {"alerts.e.url", "alerts.e.token", "alerts.c.events"} <= set(found)
    assert "smtp+starttls://" in found["alerts.d.password"]
    assert "did you mean `connection.failing`" in found["alerts.c.events"]
    assert found["alerts.e.url"] == "missing; give one of url, url_env, url_file"


def test_an_address_that_the_guard_never_allows_is_a_mistake(tmp_path: Path):
    text = f'{TOKEN}[alerts.c]\nkind = "ntfy"\nurl = "http://169.254.169.254/topic"\n'
    assert "metadata" in mistakes(tmp_path, text)["alerts.c.url"]
