"""A full disk: the API says so, nothing that was registered is lost, and work resumes once there is space."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.domain.errors import DatabaseRefused
from bridge.sandbox import Scenario
from bridge.store.checks import check_files
from bridge.store.sqlite.database_file import FileLock
from tests.support.daemon_process import DaemonProcess
from tests.support.daemon_setup import daemon_setup

MOUNT_BYTES = 4 * 1024 * 1024
TRIES_MAX = 300


class LimitedDisk:
    """No file of the daemon may grow: a limit that needs no right to mount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, daemon: DaemonProcess) -> None:
        size = max(file.stat().st_size for file in self.folder.iterdir())
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def free(self, daemon: DaemonProcess) -> None:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class SmallDisk(LimitedDisk):
    """A file system of its own, filled by another file."""

    def fill(self, daemon: DaemonProcess) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"\0" * 4096)
            except OSError:
                pass

    def free(self, daemon: DaemonProcess) -> None:
        (self.folder / "ballast").unlink()


def mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture(params=["small disk", "file size limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LimitedDisk]:
    """A disk that can be filled; where mounting is not allowed, both cases use the limit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "small disk" and mount(folder):
        yield SmallDisk(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        yield LimitedDisk(folder)


async def test_a_full_disk_is_a_503_and_after_it_everything_is_delivered(disk: LimitedDisk, tmp_path: Path) -> None:
    url = f"sqlite:///{disk.folder / 'runbridge.db'}"
    async with daemon_setup(tmp_path, "dify", database_url=url) as (daemon, sandbox, receiver):
        daemon.config["log"]["level"] = "info"
        async with daemon:
            theirs = sandbox.add_run("dify", scenario=Scenario(duration_s=None))
            promised = [(await daemon.register("dify", theirs))["id"]]
            await receiver.wait_for(lambda got: len(got) == 1)  # it is being watched
            disk.fill(daemon)
            for _ in range(TRIES_MAX):
                wanted = {
                    "connection": "dify",
                    "provider_run_id": sandbox.add_run("dify", scenario=Scenario(duration_s=0)),
                }
                status, headers, body = await daemon.call("POST", "/v1/runs", wanted)
                if status != 201:
                    break
                promised.append(json.loads(body)["id"])
            else:
                pytest.fail("the disk never was full")
            problem = json.loads(body)
            assert (status, headers["content-type"], problem["status"]) == (503, "application/problem+json", 503)
            assert "full" in problem["detail"]
            assert "retry-after" in headers
            assert (await daemon.call("GET", "/healthz"))[0] == 200
            assert (await daemon.call("GET", "/readyz"))[0] == 503
            assert len((await daemon.ask("GET", "/v1/runs"))["data"]) >= 1  # reading goes on

            sandbox.add_run("dify", run_id=theirs, scenario=Scenario(duration_s=0))
            await daemon.wait_for_log("observation.postponed")  # its end, which cannot be written
            disk.free(daemon)
            received = await receiver.wait_for(
                lambda got: (
                    set(promised) <= {one.event["data"]["run"]["id"] for one in got if one.type == "run.finished"}
                ),
                45,
            )
            finishes = [one for one in received if one.type == "run.finished"]
            assert len({one.id for one in finishes}) == len(promised)
            await daemon.ask("POST", "/v1/runs", wanted, status=201)
            await daemon.stop()
        assert "Traceback" not in daemon.log_since()


def test_a_file_system_that_is_read_only_is_named_as_one(tmp_path: Path) -> None:
    """It is not the file's mode that is wrong, whatever the daemon's user may do."""
    assert mount(tmp_path), "this test mounts a file system, which only root may"
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(DatabaseRefused, match="file system is read-only: mount it"):
            FileLock.take(tmp_path / "new/x.db")
        (finding,) = check_files(tmp_path / "x.db")
        assert (finding.result, "file system is read-only" in finding.detail) == ("wrong", True)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
