"""The manual page that the Debian package ships, made from the help of the commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.cli.commands import TABLE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_names_every_command_and_troff_reads_it() -> None:
    made = subprocess.run(
        [sys.executable, "deploy/man_page.py"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    )
    shown = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww"], input=made.stdout, check=True, capture_output=True
    )
    assert shown.stderr == b""
    text = re.sub(r".\x08|\x1b\[[0-9;]*m", "", shown.stdout.decode())
    commands = set(re.findall(r"^ +runbridge ([a-z]+)", text, re.MULTILINE))
    assert commands == set(TABLE)
    for sentence in ("Only open or only settled runs.", "The daemon cannot be reached.", "RUNBRIDGE_TOKEN"):
        assert sentence in re.sub(r"\s+", " ", text)
