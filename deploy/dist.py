"""Build the wheel and the sdist into dist/; with --sbom only write requirements/runbridge.cdx.json again.

That file lists the pinned libraries in CycloneDX form (SBOM); `make lock` writes it and the wheel contains it. The version is the one in bridge/__init__.py. On a tagged commit the tag must say the same, with a `v` before it.
Hatchling writes the same bytes for the same files, so that two builds of a commit are equal.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SBOM = ROOT / "requirements" / "runbridge.cdx.json"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", re.MULTILINE)


def components(requirements: str) -> list[dict[str, str]]:
    """The packages that a requirements file pins. Their hashes stand there."""
    return [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
        for name, version in _PINNED.findall(requirements)
    ]


def bill_of_materials() -> str:
    """The document as text, without a time or a serial number, which would differ from build to build."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "runbridge"}},
        "components": components((ROOT / "requirements/runtime.txt").read_text()),
    }
    return json.dumps(document, indent=1) + "\n"


def main() -> None:
    """Write the list, or check the tag and build."""
    if sys.argv[1:] == ["--sbom"]:
        SBOM.write_text(bill_of_materials())
        return
    sys.path.insert(0, str(ROOT))
    from bridge import __version__

    asked = ["git", "tag", "--points-at", "HEAD", "--list", "v*"]
    tags = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if tags and f"v{__version__}" not in tags:
        sys.exit(f"this commit is tagged {', '.join(tags)}, but bridge/__init__.py says {__version__}; make them agree")
    asked = ["git", "ls-files", "--others", "--exclude-standard"]
    unknown = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")[:-1]
    if unknown:  # a token or a log that lies about would be published
        sys.exit(f"the sdist would hold files that git does not know; add or remove {', '.join(unknown[:5])}")
    sys.exit(subprocess.run([sys.executable, "-m", "hatchling", "build"], cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
