"""What a daemon holds in memory, counted by walking from it."""

from __future__ import annotations

import asyncio
import gc
import types
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from bridge.delivery.deliverer import Deliverer
from bridge.domain.delivery import Delivery
from bridge.domain.event import Event
from bridge.domain.run import Run
from bridge.polling.schedule import TrackedRun
from bridge.store.deliveries import LeasedDelivery

OF_WORK: Final = (TrackedRun, Run, Event, Delivery, LeasedDelivery, asyncio.Future)
"""Of these nothing is left when no run is watched and nothing is to be sent, but for what waits for work."""
LEFT_MAX: Final = 45
OBJECTS_MAX, TEXT_MAX = 50_000, 400_000  # of text a life of an hour ends with 150,000 bytes, one of two with 230,000
_NOT_ENTERED: Final = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, int, float)


@dataclass(frozen=True, slots=True)
class Held:
    """How many objects of each type, and how much text (strings and bytes)."""

    objects: Counter[type]
    text: int


def find_leaks(root: object, *others: object) -> list[str]:
    """The objects that an idle daemon still holds, as sentences; the walk does not enter `others`."""
    held = measure(root, *others)
    if not held.objects[Deliverer]:
        return ["nothing was found in the daemon"]
    left = [(kind, held.objects[kind]) for kind in OF_WORK if held.objects[kind] > LEFT_MAX]
    faults = [f"at the end {count} objects of {kind.__name__} are held" for kind, count in left]
    if held.objects.total() > OBJECTS_MAX:
        faults.append(f"at the end {held.objects.total()} objects are held: {held.objects.most_common(8)}")
    return faults + ([f"at the end {held.text} bytes of text are held"] if held.text > TEXT_MAX else [])


def measure(root: object, *others: object) -> Held:
    """What is reached from `root`, without `others`."""
    seen, stack, counts, text = {id(root), *map(id, others)}, [root], Counter[type](), 0
    while stack:
        thing: Any = stack.pop()
        counts[asyncio.Future if isinstance(thing, asyncio.Future) else type(thing)] += 1
        is_function = isinstance(thing, types.FunctionType)
        for each in [thing.__closure__, thing.__defaults__] if is_function else gc.get_referents(thing):
            if each is None or id(each) in seen:
                continue
            if isinstance(each, (str, bytes, bytearray)):
                seen.add(id(each))
                text += len(each)
            elif not isinstance(each, _NOT_ENTERED):
                seen.add(id(each))
                stack.append(each)
    return Held(counts, text)
