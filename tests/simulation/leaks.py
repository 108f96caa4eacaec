"""Count the objects that a daemon holds in memory by walking from it."""

from __future__ import annotations

import asyncio
import gc
import types
from collections import Counter
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
_NOT_ENTERED: Final = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, str, bytes, int, float)


def find_leaks(root: object, *others: object) -> list[str]:
    """The objects that an idle daemon still holds, as sentences; the walk does not enter `others`."""
    held = _count_held(root, *others)
    if not held[Deliverer]:
        return ["nothing was found in the daemon"]
    return [f"at the end {held[kind]} objects of {kind.__name__} are held" for kind in OF_WORK if held[kind] > LEFT_MAX]


def _count_held(root: object, *others: object) -> Counter[type]:
    seen, stack, counts = {id(root), *map(id, others)}, [root], Counter[type]()
    while stack:
        thing: Any = stack.pop()
        counts[asyncio.Future if isinstance(thing, asyncio.Future) else type(thing)] += 1
        is_function = isinstance(thing, types.FunctionType)
        for each in [thing.__closure__, thing.__defaults__] if is_function else gc.get_referents(thing):
            if each is not None and id(each) not in seen and not isinstance(each, _NOT_ENTERED):
                seen.add(id(each))
                stack.append(each)
    return counts
