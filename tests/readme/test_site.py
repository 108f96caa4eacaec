"""`make docs`: the manual as a site. Strict: a dead link, an anchor that is not there or a page outside fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.manual import ROOT


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")}
    assert 'id="post-v1runs"' in pages["api-reference.html"]
    assert "runbridge runs add" in pages["cli-reference.html"]
    assert (tmp_path / "search/search_index.js").exists()
    foreign = r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"'
    assert '<script src="assets/iframe-worker.js">' in pages["index.html"], "the search works from a folder"
    assert [url for text in pages.values() for url in re.findall(foreign, text)] == []
