"""What no honest node does for long: counted each time, said once a minute, and kept from costing the others.

For `sessions.py` and `cloudhub.py`. Nobody is shut out for it: a slow or broken edge shows the same signs. Only who
connects again and again is kept waiting. How fast a node may send is the link's affair (`wire`).
"""

import asyncio
import logging
from collections import OrderedDict

from edgehive.kit.refusals import Refusals

#: How often a node may connect: this many times at once, and this many a second in the long run.
RETURNS_AT_ONCE, RETURNS_PER_SECOND = 20, 0.5
#: Seconds for which a connection beyond that is held before it is closed, one for each node.
HOLD_SECONDS = 5.0
#: Nodes whose connections are counted; of more than that the longest absent begins anew.
REMEMBERED = 65536


class Returns:
    """How many connections each node has left. Pure: it is told the time."""

    def __init__(self, at_once: int = RETURNS_AT_ONCE, per_second: float = RETURNS_PER_SECOND) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allowed(self, node: str, now: float) -> bool:
        """Count one connection."""
        left, since = self._left.get(node, (float(self._at_once), now))
        left = min(self._at_once, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[node] = (left - 1 if allowed else left, now)
        self._left.move_to_end(node)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return allowed


class Conduct:
    """One for all sessions of a hub."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._returns = Returns()
        self._held: set[str] = set()

    async def patient(self, node: str) -> str:
        """Why this node has connected too often; it is held for a while then. "" when it may go on at once."""
        if self._returns.allowed(node, asyncio.get_running_loop().time()):
            return ""
        reason = f"it connected more than {RETURNS_AT_ONCE} times at once and {RETURNS_PER_SECOND:g} times a second"
        self._note("reconnects", node, f"is kept waiting: {reason}")
        if node not in self._held:
            self._held.add(node)
            try:
                await asyncio.sleep(HOLD_SECONDS)
            finally:
                self._held.discard(node)
        return reason

    def unacknowledged(self, node: str, path: str, attempts: int) -> None:
        self._note("no acknowledgement", node, f"has acknowledged {path} none of {attempts} times")

    def acknowledged_again(self, node: str) -> None:
        self._note("repeated acknowledgement", node, "acknowledges what it has acknowledged before", logging.INFO)

    def acknowledged_unsent(self, node: str) -> None:
        self._note("unknown acknowledgement", node, "acknowledges what was not sent to it here", logging.INFO)

    def silent(self, node: str, seconds: float) -> None:
        self._note("silent", node, f"sent no keepalive within {seconds:g} s", logging.INFO)

    def told_unasked(self, node: str) -> None:
        self._note("unasked inventory", node, "tells what it holds without being asked: not compared")

    def could_not_store(self, node: str, resource: str, why: str) -> None:
        self._note("not stored", node, f"could not store {resource[:300]}: {why}")

    def _note(self, reason: str, node: str, text: str, level: int = logging.WARNING) -> None:
        self._refusals.refuse(reason, f"node {node} {text}", about=node, level=level)
