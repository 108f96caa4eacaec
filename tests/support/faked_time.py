"""Sets the wall clock of one daemon process with libfaketime; its monotonic clock goes on as it is."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon_process import DaemonProcess

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class FakedTime:
    """Give it to a daemon before it starts; `set` takes effect at once."""

    def __init__(self, daemon: DaemonProcess) -> None:
        assert LIBRARY is not None, "install faketime (Debian)"
        self._file = daemon.folder / "faketime"
        self.set("+0")
        daemon.environ |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # otherwise waits between threads last for seconds
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset: str) -> None:
        """As faketime writes it: `-1h`, `+40d`."""
        new = self._file.with_suffix(".new")
        new.write_text(offset)
        new.replace(self._file)
