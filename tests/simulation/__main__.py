"""Live many lives: `python -m tests.simulation --seeds 1-200 --jobs 2`. Exits with 1 if a promise was broken.

Each life is a process of its own, forked from one that has everything imported. A life that fails prints its faults, the
end of its trace, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from pathlib import Path

from tests.simulation.virtual_clock import VirtualClock

TRACE_LINES = 25


def main() -> int:
    """Exit code."""
    arguments = _arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of what is repeated
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    clock = VirtualClock()
    clock.take_over()
    if arguments.mutant:
        from tests.simulation.mutants import plant

        plant(arguments.mutant)
    import tests.simulation.life  # noqa: F401 - imported once, for all lives

    first, _, last = arguments.seeds.partition("-")
    seeds, running, failed, count = list(range(int(first), int(last or first) + 1)), dict[int, int](), 0, 0
    while seeds or running:
        while seeds and len(running) < arguments.jobs:
            seed = seeds.pop(0)
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _live(clock, seed, arguments)
            running[pid] = seed
        pid, status = os.wait()
        seed = running.pop(pid)
        count += 1
        if status != 0:
            failed += 1
            if arguments.mutant:
                print(f"{arguments.mutant}: found by life {seed}")
                break
    if not arguments.mutant:
        print(f"{count} lives of {arguments.hours:g} h, {failed} with a broken promise")
    elif not failed:
        print(f"{arguments.mutant}: NOT found in {count} lives")
    return 1 if bool(failed) is not bool(arguments.mutant) else 0


def _live(clock: VirtualClock, seed: int, arguments: argparse.Namespace) -> None:
    """One life, in this process; never returns."""
    from tests.simulation.life import Life

    is_well = False
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        life = Life(clock, seed, Path(folder), hours=arguments.hours, is_traced=arguments.trace)
        try:
            life.run()
            is_well = not life.faults
        except BaseException:  # noqa: BLE001 - printed; nothing of a life may go on
            life.faults.append(traceback.format_exc())
        if not is_well and not arguments.mutant:
            print(f"\nlife {seed} broke a promise; repeat it: make simulate SEEDS={seed}")
            print(*life.faults[:10], sep="\n")
            print(*life.trace[-TRACE_LINES:], sep="\n")
        elif not arguments.mutant:
            print(*life.trace if arguments.trace else (), sep="\n", end="")
            print(f"life {seed}: {life.summary()}")
    sys.stdout.flush()
    os._exit(0 if is_well else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="1-200", help="one number or FIRST-LAST")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="lives at a time")
    parser.add_argument("--hours", type=float, default=4.0, help="of simulated time, for one life")
    parser.add_argument("--mutant", help="plant this fault and stop at the first life that finds it")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
