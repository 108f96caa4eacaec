"""Lives in real time, one after the other: `python -m tests.simulation.real --kills 5000 --rounds 1000`.

Exits with 1 if a promise was broken; the folder of such a life stays, with the trace, the logs and the database.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.simulation.nursery import Nursery
from tests.simulation.real_cluster import live_in_cluster
from tests.simulation.real_life import RealLife, live, points_of
from tests.support.postgres import Postgres

KILLS, ROUNDS = 50, 10  # in one life


async def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.real", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kill -9 of a daemon on SQLite")
    parser.add_argument("--rounds", type=int, default=50, help="troubles of several daemons on PostgreSQL")
    parser.add_argument("--seed", type=int, default=1, help="of the first life")
    arguments = parser.parse_args()
    failed, reached = 0, Counter[str]()
    async with Nursery() as nursery:
        for number in range(-(-arguments.kills // KILLS)):
            seed, folder = arguments.seed + number, Path(tempfile.mkdtemp(prefix="kills-"))
            life = await live(seed, folder, nursery, points_of(KILLS, random.Random(seed)))
            failed += _tell(life, f"{life.kills} kills, {life.torn} torn logs")
            reached.update(life.reached)
        for name, count in sorted(reached.items()):
            print(f"{count:6} {name}")
        if arguments.rounds:
            with Postgres() as server:
                for number in range(-(-arguments.rounds // ROUNDS)):
                    seed, folder = arguments.seed + number, Path(tempfile.mkdtemp(prefix="rounds-"))
                    url = server.create_database()
                    cluster = await live_in_cluster(seed, folder, nursery, url, ROUNDS)
                    failed += _tell(cluster, f"{ROUNDS} rounds of {len(cluster.nodes)} nodes")
                    server.drop_database(url)
    print(f"{failed} lives with a broken promise")
    return 1 if failed else 0


def _tell(life: RealLife, what: str) -> bool:
    posts = sum(map(len, life.arrivals.values()))
    print(f"life {life.seed}: {what}, {len(life.clients.registrations)} runs, {posts} posts", flush=True)
    if life.faults:
        (life.folder / "trace").write_text("\n".join(life.trace))
        print(*life.faults[:8], f"see {life.folder}", sep="\n", flush=True)
    else:
        shutil.rmtree(life.folder)
    return bool(life.faults)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
