"""`runbridge nodes`."""

from __future__ import annotations


def test_the_daemon_that_answers_is_listed(bridge, running) -> None:
    (node,) = bridge("nodes", "--json").json["data"]
    result = bridge("nodes")
    assert result.code == 0
    heading, line = result.out.splitlines()
    assert heading.split()[:3] == ["NODE", "HOST", "PID"]
    assert line.split()[:3] == [node["id"], node["host"], str(node["pid"])]
    assert "alive" in line
