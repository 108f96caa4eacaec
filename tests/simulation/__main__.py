"""Live many lives: `python -m tests.simulation --seeds 1-200 --jobs 2`. Exits with 1 if a promise was broken.

Each life is a process of its own, forked from one that has everything imported. A life that fails prints its faults, the
fewest troubles that still break a promise with the end of their trace, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.simulation.virtual_clock import VirtualClock

TRACE_LINES = 30
FAULTS_SHOWN = 8
SHRINKING_LIVES = 24


def main() -> int:
    """Exit code."""
    arguments = _arguments()
    if arguments.mutant == "all":
        return _every_mutant(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of what is repeated
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    clock = VirtualClock()
    clock.take_over()
    if arguments.mutant:
        from tests.simulation.mutants import mutant_named
        from tests.simulation.planting import plant

        plant(mutant_named(arguments.mutant))
    import tests.simulation.life  # noqa: F401 - imported once, for all lives

    gc.collect()
    gc.freeze()
    gc.disable()  # a life is short; what is collected when would depend on the version of Python
    first, _, last = arguments.seeds.partition("-")
    failed, count = 0, 0
    for seed, is_well in _live_all(clock, range(int(first), int(last or first) + 1), arguments):
        count += 1
        failed += not is_well
        if not is_well and arguments.mutant:
            print(f"{arguments.mutant}: found by life {seed}")
            break
        if not is_well:
            _shrink(clock, seed, arguments)
    if not arguments.mutant:
        print(f"{count} lives of {arguments.hours:g} h, {failed} with a broken promise")
    elif not failed:
        print(f"{arguments.mutant}: NOT found in {count} lives")
    return 1 if bool(failed) is not bool(arguments.mutant) else 0


def _every_mutant(arguments: argparse.Namespace) -> int:
    from tests.simulation.mutants import MUTANTS

    code = 0
    for mutant in MUTANTS:
        options = ["--mutant", mutant.name, "--seeds", arguments.seeds, "--jobs", str(arguments.jobs)]
        command = [sys.executable, "-m", "tests.simulation", *options, "--hours", str(arguments.hours)]
        code |= subprocess.run(command, check=False).returncode
    return code


def _live_all(clock: VirtualClock, seeds: range, arguments: argparse.Namespace) -> Iterator[tuple[int, bool]]:
    """Live them, so many at a time; which was well, in the order in which they end."""
    waiting, running = list(seeds), dict[int, int]()
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            seed = waiting.pop(0)
            running[_fork(lambda seed=seed: _live(clock, seed, arguments, arguments.only))] = seed  # type: ignore[misc]
        pid, status = os.wait()
        yield running.pop(pid), status == 0


def _fork(work: Callable[[], bool]) -> int:
    """Do this in a process of its own, which exits with 0 if it was well."""
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        is_well = False
        try:
            is_well = work()
        finally:
            sys.stdout.flush()
            os._exit(0 if is_well else 1)
    return pid


def _live(
    clock: VirtualClock,
    seed: int,
    arguments: argparse.Namespace,
    only: frozenset[int] | None,
    *,
    is_quiet: bool = False,
    shows_trace: bool = False,
) -> bool:
    """One life, in this process; whether it was well."""
    from tests.simulation.life import Life

    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        life = Life(clock, seed, Path(folder), hours=arguments.hours, only=only, is_traced=arguments.trace)
        try:
            life.run()
        except BaseException:  # noqa: BLE001 - printed; nothing of a life may go on
            life.faults.append(traceback.format_exc())
    if is_quiet or (arguments.mutant and not arguments.trace):
        return not life.faults
    if life.faults:
        print(f"\nlife {seed} broke a promise; repeat it: {_command(seed, arguments, only)}")
        print(*life.faults[:FAULTS_SHOWN], sep="\n")
        if shows_trace or arguments.trace:
            print(*life.trace if arguments.trace else life.trace[-TRACE_LINES:], sep="\n")
    else:
        print(*life.trace if arguments.trace else (), sep="\n", end="")
        print(f"life {seed}: {life.summary()}")
    return not life.faults


def _command(seed: int, arguments: argparse.Namespace, only: frozenset[int] | None) -> str:
    options = [f"--hours {arguments.hours:g}"]
    if only is not None:
        options.append(f"--only {','.join(map(str, sorted(only))) or '-'}")
    return f'make simulate SEEDS={seed} ARGS="{" ".join(options)}"'


def _shrink(clock: VirtualClock, seed: int, arguments: argparse.Namespace) -> None:
    """Leave out troubles as long as a promise is broken still, then show what is left."""
    from tests.simulation.troubles import plan

    def fails(only: frozenset[int]) -> bool:
        pid = _fork(lambda: _live(clock, seed, arguments, only, is_quiet=True))
        return os.waitpid(pid, 0)[1] != 0

    left = sorted(arguments.only if arguments.only is not None else range(len(plan(seed, arguments.hours))))
    size, lives = max(1, len(left) // 2), 0
    while left and lives < SHRINKING_LIVES:
        has_shrunk = False
        for start in range(0, len(left), size):
            fewer = left[:start] + left[start + size :]
            lives += 1
            if fails(frozenset(fewer)):
                left, has_shrunk = fewer, True
                break
        if not has_shrunk and size == 1:
            break
        size = size if has_shrunk else max(1, size // 2)
    print(f"\nlife {seed} with the fewest troubles that break a promise:")
    os.waitpid(_fork(lambda: _live(clock, seed, arguments, frozenset(left), shows_trace=True)), 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="1-200", help="one number or FIRST-LAST")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="lives at a time")
    parser.add_argument("--hours", type=float, default=4.0, help="of simulated time, for one life; over 0.5")
    parser.add_argument("--only", type=_numbers, help="the numbers of the troubles that happen: 3,7; none: -")
    parser.add_argument("--mutant", help="plant this fault, or all in turn, and stop at the first life that finds it")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    return parser.parse_args()


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(each) for each in text.split(",") if each.isdigit())


if __name__ == "__main__":
    sys.exit(main())
