"""Build the Debian package: `make deb`, or `python deploy/debian/build.py --output dist`.

The package brings every library that runbridge needs, in /usr/lib/runbridge, built for the Python that runs this
script; it depends on Debian's package of that Python. The same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARIES = "usr/lib/runbridge"
COMMAND = f"""\
#!/usr/bin/{PYTHON} -I
import sys

sys.path.insert(0, "/{LIBRARIES}")
from bridge.cli import main

sys.exit(main())
"""
SHELLS = {
    "bash": "usr/share/bash-completion/completions/runbridge",
    "zsh": "usr/share/zsh/vendor-completions/_runbridge",
    "fish": "usr/share/fish/vendor_completions.d/runbridge.fish",
}


def run(*command: str | Path, **more: str) -> bytes:
    """Run a program; what it prints. A failure ends the build with the program's own words."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with code {done.returncode}")
    return done.stdout


def write(path: Path, text: str | bytes, mode: int = 0o644) -> None:
    """Write a file of the package, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)


def install_libraries(tree: Path) -> None:
    """The libraries at their pinned versions, runbridge itself, and the compiled form of both."""
    target = tree / LIBRARIES
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")
    run(*pip, "--target", target, "--require-hashes", "-r", "requirements/otel.txt")
    shutil.rmtree(target / "bin")  # the libraries' commands would look for another Python
    run(*pip, "--target", target, "--no-deps", "--no-build-isolation", ".")
    shutil.rmtree(target / "bin")
    for record in target.glob("*.dist-info"):
        for name in ("direct_url.json", "RECORD", "REQUESTED"):  # where and how they were built
            (record / name).unlink(missing_ok=True)
    run(
        sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", "/", target
    )


def fill(tree: Path) -> None:
    """Put everything at its place."""
    install_libraries(tree)
    write(tree / "usr/bin/runbridge", COMMAND, 0o755)
    unit = (ROOT / "systemd/runbridge.service").read_text()
    write(
        tree / "lib/systemd/system/runbridge.service",
        unit.replace("ExecStart=/opt/runbridge/bin/runbridge", "ExecStart=/usr/bin/runbridge"),
    )
    write(tree / "usr/lib/sysusers.d/runbridge.conf", 'u runbridge - "runbridge" /var/lib/runbridge\n')
    write(tree / "etc/runbridge/config.toml", (HERE / "config.toml").read_text())
    page = run(sys.executable, "deploy/man_page.py", PYTHONPATH=str(ROOT))
    write(tree / "usr/share/man/man1/runbridge.1.gz", gzip.compress(page, mtime=0))
    for shell, place in SHELLS.items():
        script = run(sys.executable, "-m", "bridge", _RUNBRIDGE_COMPLETE=f"{shell}_source", PYTHONPATH=str(ROOT))
        write(tree / place, script)
    documents = tree / "usr/share/doc/runbridge"
    write(documents / "copyright", (ROOT / "LICENSE").read_text())
    write(documents / "changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    write(documents / "config.example.toml", (ROOT / "config.example.toml").read_text())


def control(version: str, architecture: str, kilobytes: int) -> str:
    """The package's description."""
    values = {
        "@VERSION@": version,
        "@ARCHITECTURE@": architecture,
        "@INSTALLED_SIZE@": str(kilobytes),
        "@PYTHON@": PYTHON,
    }
    return re.sub("@[A-Z_]+@", lambda found: values[found.group()], (HERE / "control").read_text())


def build(output: Path, version: str) -> Path:
    """Build the package in a temporary folder; returns the file."""
    architecture = run("dpkg", "--print-architecture").decode().strip()
    with tempfile.TemporaryDirectory(prefix="runbridge-deb-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir(mode=0o755)
        fill(tree)
        kilobytes = sum(path.lstat().st_size for path in tree.rglob("*")) // 1024
        write(tree / "DEBIAN/control", control(version, architecture, kilobytes))
        write(tree / "DEBIAN/conffiles", "/etc/runbridge/config.toml\n")
        for script in ("postinst", "prerm", "postrm"):
            write(tree / "DEBIAN" / script, (HERE / script).read_text(), 0o755)
        for path in tree.rglob("*"):  # whatever the umask of the builder is
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        output.mkdir(parents=True, exist_ok=True)
        package = output.resolve() / f"runbridge_{version}_{architecture}.deb"
        epoch = run("git", "log", "-1", "--format=%ct").decode().strip() if (ROOT / ".git").exists() else "0"
        run("dpkg-deb", "--root-owner-group", "--build", tree, package, SOURCE_DATE_EPOCH=epoch)
    return package


def main() -> None:
    """Read the arguments and build."""
    sys.path.insert(0, str(ROOT))
    from bridge import __version__

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the package (default: dist)")
    parser.add_argument("--revision", default="1", help="Debian's revision of this version (default: 1)")
    chosen = parser.parse_args()
    upstream = re.sub(r"\.?(a|b|rc|dev)(?=\d)", r"~\1", __version__)
    print(build(chosen.output, f"{upstream}-{chosen.revision}"))


if __name__ == "__main__":
    main()
