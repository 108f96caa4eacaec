"""Planted faults: each changes a line of the real code, and the simulation must find it.

`text` stands in `file` exactly once; `test_mutants.py` says so. A mutant is put in while the module is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """`fault` is what a person would say of it."""

    name: str
    fault: str
    file: str
    text: str
    instead: str
    more: tuple[tuple[str, str], ...] = ()
    """Further changes to the same file: what stands there, and what instead."""

    @property
    def module(self) -> str:
        """The name of the module that it is in."""
        return self.file.removesuffix(".py").replace("/", ".")


MUTANTS: Final = (
    Mutant(
        "any-answer-delivers",
        "a delivery is marked as delivered whatever the receiver answered",
        "bridge/delivery/outcome.py",
        "    if 200 <= status <= 299:\n        return Judged(Outcome.DELIVERED)",
        "    if 200 <= status <= 599:\n        return Judged(Outcome.DELIVERED)",
    ),
    Mutant(
        "mark-before-send",
        "the attempt is recorded as delivered without waiting for the answer",
        "bridge/delivery/deliverer.py",
        "        answer = await self._post(claimed, int(at.timestamp()))\n",
        "        from bridge.domain.delivery import PostResult\n"
        "        asyncio.create_task(self._post(claimed, int(at.timestamp())))\n"
        "        answer = PostResult(Outcome.DELIVERED, 1, 204)\n",
    ),
    Mutant(
        "acknowledged-before-commit",
        "callers are answered before their commit",
        "bridge/store/sqlite/writer.py",
        '            driver.execute("COMMIT")\n            self._check()',
        "            self._check()",
        (
            (
                'the rollback of the last batch failed\n            driver.execute("ROLLBACK")',
                'the rollback of the last batch failed\n            driver.execute("COMMIT")',
            ),
        ),
    ),
    Mutant(
        "failed-commit-is-success",
        "a transaction that the disk refused is answered as if it had been committed",
        "bridge/store/sqlite/writer.py",
        "            _fail(batch, error if isinstance(error, StoreUnavailable) else StoreUnavailable(explain(error)))\n"
        "            return None",
        "            return CommitSignals()",
    ),
    Mutant(
        "event-outside-transaction",
        "the run is changed and its events are forgotten when the commit holds several changes",
        "bridge/store/runs.py",
        "    record_events(tx, new, offer=offer)",
        "    if len(changes) == 1:\n        record_events(tx, new, offer=offer)",
    ),
    Mutant(
        "sequence-from-clock",
        "the sequence of an event comes from the clock",
        "bridge/store/runs.py",
        "            sequence=before.sequence + number,",
        "            sequence=int(tx.now.timestamp()) % 1000 + number,",
    ),
    Mutant(
        "settled-reopened",
        "a settled run changes again",
        "bridge/domain/transition.py",
        "    if run.settled:\n        return False\n    return (",
        "    return (",
    ),
    Mutant(
        "poll-error-is-a-state",
        "a run is lost at the first failed poll",
        "bridge/polling/poll_results.py",
        "        if transition.is_lost(tracked.with_counters(), wall):",
        "        if True:",
    ),
    Mutant(
        "no-lease-given-back",
        "what a daemon that was killed had leased is never due again",
        "bridge/daemon.py",
        "            nodes.evict(tx, dead)\n",
        "",
    ),
    Mutant(
        "order-forgotten",
        "an event goes out beside the one before it, where order is asked for",
        "bridge/store/events.py",
        '            row["next_attempt_at"] = None\n    if offer',
        "            pass\n    if offer",
    ),
    Mutant(
        "next-not-released",
        "the event after a delivered one is not released, where order is asked for",
        "bridge/store/attempts.py",
        "        if each.releases and each.result.delivery.run_id:",
        "        if each.releases and each.result.delivery.attempts and each.result.delivery.run_id:",
    ),
    Mutant(
        "retry-after-ignored",
        "a delivery is tried again before the receiver's Retry-After",
        "bridge/domain/delivery.py",
        "        delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_MAX_S))",
        "        delay_s = min(delay_s, retry_after_s)",
    ),
    Mutant(
        "retry-counted-twice",
        "one failed attempt uses up two retries",
        "bridge/store/attempts.py",
        "result.answer.outcome is Outcome.DELIVERED else 1)",
        "result.answer.outcome is Outcome.DELIVERED else 2)",
    ),
    Mutant(
        "bytes-made-again",
        "a retry has other bytes than the first attempt",
        "bridge/delivery/deliverer.py",
        "            body=claimed.body,",
        '            body=claimed.body + b" " * claimed.delivery.attempts,',
    ),
    Mutant(
        "jump-expires",
        "due times stay where they were when the wall clock is set back",
        "bridge/store/clock_shift.py",
        '    (deliveries, ("next_attempt_at",), deliveries.c.next_attempt_at.is_not(None)),\n',
        "",
    ),
    Mutant(
        "rollback-forgotten",
        "work that failed stays in the transaction of the others",
        "bridge/store/sqlite/writer.py",
        "            for statement in guard.undo:",
        "            for statement in guard.end:",
    ),
    Mutant(
        "secret-logged",
        "the key of a connection is in the log",
        "bridge/polling/poll_results.py",
        "            reason=failed.message,\n        )",
        "            reason=failed.message,\n            key=self._client.connection.api_key.reveal(),\n        )",
    ),
    Mutant(
        "finish-told-twice",
        "a run that ends has two finishes",
        "bridge/store/runs.py",
        "        for number, event_type in enumerate(change.decision.events, start=1)",
        "        for number, event_type in enumerate(\n"
        "            change.decision.events + change.decision.events[-1:] * after.settled, start=1\n        )",
    ),
)


class _Finder:
    """Finds the mutated module, and nothing else."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name != self._mutant.module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._mutant)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text(encoding="utf-8")
        for text, instead in ((self._mutant.text, self._mutant.instead), *self._mutant.more):
            source = source.replace(text, instead)
        return compile(source, self.path, "exec")


def plant(name: str) -> None:
    """Put a mutant in; call it before its module is imported."""
    mutant = next(each for each in MUTANTS if each.name == name)
    if mutant.module in sys.modules:
        raise RuntimeError(f"{mutant.module} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))  # type: ignore[arg-type]
