"""Mutation testing: `python -m tests.mutation --room domain --count 150 --seed 1`.

Makes one small fault at a time in a module of a room of `bridge/` and runs the tests of that room. A fault that no test
notices is printed. The same seed is the same sample, as long as the room does not change. A long sample can be tried in
parts: `--skip 60` leaves out its first 60 faults. `--planted` makes those of `planted.py` instead.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutation.planted import PLANTED
from tests.mutation.sites import Site, find_sites
from tests.simulation.mutant import Mutant
from tests.simulation.planting import ROOT, plant

SURVIVED, KILLED, STUCK = "survived", "killed", "stuck"
TIMES = 10  # a run may take as many times as long as one without a fault, and …
GRACE_S = 60.0  # … so many seconds
PLANTED_LIMIT_S = 600.0
NO_TESTS = 5


def main() -> int:
    """Exit code: 0 if at least `--least` percent were noticed."""
    arguments = _arguments()
    _import_libraries()
    if arguments.planted:
        return _make_planted()
    sites = [site for file in sorted((ROOT / "bridge" / arguments.room).rglob("*.py")) for site in find_sites(file)]
    chosen = random.Random(f"{arguments.room} {arguments.seed}").sample(sites, min(arguments.count, len(sites)))
    chosen = chosen[arguments.skip :]
    tests = ROOT / "tests" / arguments.room
    started = time.monotonic()
    if (outcome := _try(None, [tests], arguments.marks, time_limit_s=3600.0)) != SURVIVED:
        print(f"the tests of {arguments.room} fail without a fault: {outcome}")
        return 2
    limit_s = TIMES * (time.monotonic() - started) + GRACE_S
    counts = Counter[str]()
    for number, site in enumerate(chosen, start=arguments.skip + 1):
        ordered = [*_about(site, tests), tests]
        outcome = _try(_mutant_of(site), ordered, arguments.marks, time_limit_s=limit_s)
        if outcome == SURVIVED and arguments.marks and not arguments.quick:  # the other tests of the room
            outcome = _try(
                _mutant_of(site), ordered, f"not ({arguments.marks}) and not servers", time_limit_s=TIMES * limit_s
            )
        if outcome == SURVIVED and arguments.lives and _is_found_by_lives(site, arguments.lives):
            outcome = KILLED
        counts[outcome] += 1
        place = f"{site.file.relative_to(ROOT)}:{site.line}"
        if outcome != KILLED or arguments.verbose:
            print(f"{number:4} {outcome} {place}\n       {site.before}\n     → {site.after}", flush=True)
    noticed = counts[KILLED] + counts[STUCK]
    share = 100 * noticed / max(1, len(chosen))
    print(
        f"{arguments.room}: {noticed} of {len(chosen)} faults were noticed ({share:.1f} %), {counts[STUCK]} of them "
        f"because the tests did not end; {len(sites)} can be made; seed {arguments.seed}"
    )
    return 0 if share >= arguments.least else 1


def _make_planted() -> int:
    """Exit code: 0 if each was noticed."""
    noticed = 0
    for planted in PLANTED:
        for tests in planted.tests:
            outcome = _try(planted.mutant, [ROOT / tests], "not servers", time_limit_s=PLANTED_LIMIT_S)
            if outcome != SURVIVED:
                break
        noticed += outcome != SURVIVED
        print(f"{planted.mutant.name}: {outcome}{'' if outcome == SURVIVED else f' by {tests}'}", flush=True)
    print(f"{noticed} of {len(PLANTED)} planted faults were noticed")
    return 0 if noticed == len(PLANTED) else 1


def _mutant_of(site: Site) -> Mutant:
    return Mutant("", "", str(site.file.relative_to(ROOT)), site.file.read_text(encoding="utf-8"), site.source())


def _try(mutant: Mutant | None, tests: Sequence[Path], marks: str, *, time_limit_s: float) -> str:
    """Run these tests, in a process of their own, until one fails."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as output:
        if (pid := os.fork()) == 0:
            os.setsid()
            code = 70
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_CPU, (int(time_limit_s), int(time_limit_s)))
                code = _run(mutant, tests, marks)
            finally:
                os._exit(code)
        code = _wait(pid, time_limit_s)
        if code < 0:
            return STUCK
        if code > pytest.ExitCode.INTERRUPTED and code != NO_TESTS:
            output.seek(0)
            raise RuntimeError(output.read().decode()[-3000:])
    return SURVIVED if code in (0, NO_TESTS) else KILLED


def _run(mutant: Mutant | None, tests: Sequence[Path], marks: str) -> int:
    if mutant is not None:
        plant(mutant)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--hypothesis-profile=fast"]
    return int(pytest.main([*options, *(["-m", marks] if marks else []), *map(str, tests)]))


def _is_found_by_lives(site: Site, lives: int) -> bool:
    """Whether one of the first lives of the simulation, which are part of `make test`, finds it."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as faulty:
        faulty.write(site.source())
        faulty.flush()
        mutant = f"{site.file.relative_to(ROOT)}={faulty.name}"
        command = [
            sys.executable,
            "-m",
            "tests.simulation",
            "--seeds",
            f"1-{lives}",
            "--hours",
            "1",
            "--mutant",
            mutant,
        ]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0


def _wait(pid: int, time_limit_s: float) -> int:
    """The exit code; a negative one is a signal."""
    until = time.monotonic() + time_limit_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGKILL
        time.sleep(0.05)


def _about(site: Site, tests: Path) -> list[Path]:
    """The test files that name the module: they notice most, and go first."""
    name = site.file.stem
    found = [file for file in sorted(tests.rglob("test_*.py")) if name in file.read_text(encoding="utf-8")]
    return sorted(found, key=lambda file: file.stem != f"test_{name}")


def _import_libraries() -> None:
    """What the tests import anyway, once for all of them; nothing of `bridge`."""
    import aiohttp  # noqa: F401
    import hypothesis  # noqa: F401
    import pydantic  # noqa: F401
    import pytest_asyncio  # noqa: F401
    import sqlalchemy  # noqa: F401
    import structlog  # noqa: F401


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--room", default="domain", help="a folder of bridge/")
    parser.add_argument("--count", type=int, default=150, help="faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="so many of them, from the first")
    parser.add_argument("--lives", type=int, default=0, help="of the simulation, tried on what the tests let pass")
    parser.add_argument("--marks", default="not slow and not servers", help="the tests that are run first")
    parser.add_argument("--quick", action="store_true", help="run no others")
    parser.add_argument("--least", type=float, default=85.0, help="percent of the faults that must be noticed")
    parser.add_argument("--planted", action="store_true", help="the faults of planted.py, each tried on its tests")
    parser.add_argument("--verbose", action="store_true", help="print every fault")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
