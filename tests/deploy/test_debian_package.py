"""The Debian package on a real Debian: installed, upgraded, removed and purged under systemd.

debootstrap makes a minimal system in a temporary folder and systemd-nspawn boots it. Both need root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.manual import ROOT, block

PYTHON = "/usr/bin/python3"  # Debian's own: the package is built for it
PACKAGES = "systemd,systemd-sysv,dbus,python3,init-system-helpers,ca-certificates"
BOOT_MAX_S = 300
QUICKLY = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}  # xz takes 20 s each time

# Each step prints a line that begins with `=`, then what it saw.
STORY = r"""#!/bin/bash
exec >/srv/story.log 2>&1
await() { for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "gave up on: $*"; }
new=$(ls /srv/*-2_*.deb) old=$(ls /srv/*-1_*.deb)
echo = install; dpkg -i $old; systemctl is-active runbridge; systemctl is-enabled runbridge
echo = user; stat -c '%U %G %a' /etc/runbridge/api-token /var/lib/runbridge/runbridge.db; ls /var/lib/runbridge
echo = cli; runbridge --version; runbridge runs list; echo $?; runbridge doctor >/dev/null; echo $?
echo = demo; runbridge demo; echo $?
echo = try
@TRY@
echo = completions; ls /usr/share/bash-completion/completions/runbridge /usr/share/man/man1/runbridge.1.gz
echo = reload; systemctl reload runbridge; echo $?
echo = journal; journalctl -u runbridge -p warning -o cat | grep -c sqlite.affected; journalctl -u runbridge -o cat | grep -c '^<'
echo = upgrade; echo '# mine' >>/etc/runbridge/config.toml; cp /etc/runbridge/api-token /srv/token
before=$(systemctl show -P MainPID runbridge); dpkg -i --force-confold $new; systemctl is-active runbridge
[ "$before" != "$(systemctl show -P MainPID runbridge)" ] && echo restarted
cmp /srv/token /etc/runbridge/api-token && tail -n 1 /etc/runbridge/config.toml
echo = mistake; echo 'listn = 1' >>/etc/runbridge/config.toml; systemctl restart runbridge; sleep 5
systemctl show -P NRestarts -P ExecMainStatus -P ActiveState runbridge; journalctl -u runbridge -o cat | grep -c listn
sed -i '$d' /etc/runbridge/config.toml; systemctl start runbridge; systemctl is-active runbridge
echo = disabled; systemctl disable --quiet runbridge; dpkg -i --force-confold $new >/dev/null; systemctl is-enabled runbridge
echo = root; systemctl stop runbridge; runbridge db upgrade >/dev/null; echo $?; find /var/lib/private/runbridge ! -user runbridge
systemctl start runbridge; systemctl is-active runbridge
echo = remove; dpkg -r runbridge; systemctl is-active runbridge; ls /etc/runbridge /var/lib/runbridge/runbridge.db
echo = purge; dpkg -P runbridge; echo $?; find / -xdev -name '*runbridge*' -not -path '/srv/*'
"""
UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/srv/story.sh
ExecStopPost=/bin/systemctl poweroff --no-block
[Install]
WantedBy=multi-user.target
"""


def run(*command: str | Path, timeout_s: float = BOOT_MAX_S) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **QUICKLY}, check=False, text=True, timeout=timeout_s,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def mirror() -> tuple[str, str]:
    """The archive that this machine's apt uses for Debian itself, and its suite."""
    wanted = "$(SITE) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    for line in run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages").splitlines():
        site, suite, component, origin = line.split(" ", 3)
        if origin == "Debian" and component == "main" and "-" not in suite:
            return site, suite
    raise AssertionError("apt knows no archive of Debian itself; this test needs a Debian with one")


def builder(folder: Path) -> Path:
    """A Python of Debian's version that has what the build needs: ours, if it is one."""
    if sys.version.startswith(run(PYTHON, "-c", "import sys; print('%d.%d.' % sys.version_info[:2], end='')")):
        return Path(sys.executable)
    environment = folder / "env"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", PYTHON, "--seed", environment)
    pip = (environment / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--require-hashes", "-r", "requirements/build.txt", "-r", "requirements/runtime.txt")
    return environment / "bin/python"


def build_two_revisions(folder: Path) -> None:
    """The package, and the same with the next revision."""
    run(builder(folder), "deploy/debian/build.py", "--output", folder)
    [first] = folder.glob("*.deb")
    tree = folder / "tree"
    run("dpkg-deb", "--raw-extract", first, tree)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)-1$", r"\1-2", control.read_text(), flags=re.MULTILINE))
    run("dpkg-deb", "--root-owner-group", "--build", tree, str(first).replace("-1_", "-2_"))


def live_through(folder: Path) -> dict[str, list[str]]:
    """The output of each step of the story."""
    system = folder / "system"
    try:
        site, suite = mirror()
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, system, site)
        build_two_revisions(folder)
        for package in folder.glob("*.deb"):
            shutil.copy(package, system / "srv")
        story = system / "srv/story.sh"
        story.write_text(STORY.replace("@TRY@", block("debian-try")))
        story.chmod(0o755)
        (system / "etc/systemd/system/story.service").write_text(UNIT)
        wants = system / "etc/systemd/system/multi-user.target.wants/story.service"
        wants.symlink_to("/etc/systemd/system/story.service")
        run(
            "systemd-nspawn", "--quiet", "-D", system, "--boot", "--register=no", "--keep-unit",
            "--console=pipe", "--private-network",
        )  # fmt: skip
        told = (system / "srv/story.log").read_text()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    steps = re.split(r"^= ", told, flags=re.MULTILINE)[1:]
    return {step.splitlines()[0]: step.splitlines()[1:] for step in steps}


@pytest.mark.slow
def test_the_package_is_installed_upgraded_removed_and_purged(tmp_path: Path) -> None:
    seen = live_through(tmp_path)
    assert seen["install"][-2:] == ["active", "enabled"]
    assert seen["user"][:2] == ["root runbridge 640", "runbridge runbridge 600"]
    assert {"runbridge.db", "secrets.key"} <= set(seen["user"])

    version, heading, listed, doctor = seen["cli"]  # root needs no option for them
    assert version.startswith("runbridge ")
    assert heading.startswith("RUN ")
    assert (listed, doctor) == ("0", "0")
    assert seen["demo"][-1] == "0", seen["demo"]
    assert any("sandbox" in line and "delivered" in line for line in seen["try"]), seen["try"]
    assert len(seen["completions"]) == 2

    assert seen["reload"] == ["0"], "a minimal Debian has no /bin/kill"
    assert seen["journal"][1] == "0", "the journal takes the priority off each line"
    assert seen["upgrade"][-3:] == ["active", "restarted", "# mine"]

    *_, restarts, code, state, named, after = seen["mistake"]
    assert (restarts, code, state) == ("0", "78", "failed"), "a mistake in the configuration ends it once"
    assert (named, after) == ("1", "active")

    assert seen["disabled"][-1] == "disabled", "an upgrade does not enable what was disabled"
    assert seen["root"] == ["0", "active"], "what root upgrades stays the user's"
    assert "inactive" in seen["remove"]
    assert {"api-token", "config.toml", "/var/lib/runbridge/runbridge.db"} <= set(seen["remove"])
    assert seen["purge"][-1] == "0", "nothing is left"
