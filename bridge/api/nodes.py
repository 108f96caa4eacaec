"""Nodes: the daemons that share this database, and what each holds."""

from __future__ import annotations

from bridge.api.context import Call, Door, Response, answer
from bridge.api.request_models import NoQuery
from bridge.domain.run import Json
from bridge.domain.timestamps import format_instant
from bridge.store import nodes
from bridge.store.nodes import Node


async def list_nodes(door: Door, _call: Call[NoQuery]) -> Response:
    """Every node, the longest running first; one that is not alive is about to be buried."""
    found = await door.database.read(nodes.list_nodes)
    return answer(
        200, {"data": [_shown(node, has_lease=not door.database.is_sqlite) for node in found], "next_cursor": None}
    )


def _shown(node: Node, *, has_lease: bool) -> Json:
    return {
        "id": node.id,
        "host": node.host,
        "pid": node.pid,
        "version": node.version,
        "started_at": format_instant(node.started_at),
        "lease_expires_at": format_instant(node.lease_expires_at) if has_lease else None,
        "alive": node.is_alive,
        "runs": node.runs,
        "deliveries": node.deliveries,
    }
