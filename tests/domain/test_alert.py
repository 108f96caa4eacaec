"""The channels of alerts. The form of their keys in the configuration is tested in tests/config."""

from __future__ import annotations

from bridge.domain.alert import AlertChannel
from bridge.domain.secret import Secret


def test_a_channel_of_e_mail_keeps_what_it_needs_to_send() -> None:
    given = {"kind": "email", "from": "bridge@example.org", "to": ("ops@example.org",), "username": "bridge"}
    secrets = {"url": Secret("smtps://mail.example.org"), "password": Secret("hunter2-hunter2")}
    channel = AlertChannel.model_validate(given | secrets)
    assert channel.url.reveal() == "smtps://mail.example.org"
    assert (channel.sender, channel.to, channel.username) == ("bridge@example.org", ("ops@example.org",), "bridge")
    assert channel.password is not None
    assert channel.password.reveal() == "hunter2-hunter2"
