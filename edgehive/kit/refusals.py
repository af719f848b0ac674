"""`Refusals`: what was refused and why, counted each time and said once a minute.

For every door that strangers can knock at: whoever sends rubbish a thousand times a second fills no disk, and who
looks for a cause finds it in the log and in the metric alike. A thousand who do it fill no disk either.
"""

import asyncio
import logging
from collections import OrderedDict

from prometheus_client import CollectorRegistry

from edgehive.kit import metrics

SAY_SECONDS = 60.0
#: Causes remembered; of more than that the oldest may be said again early.
REMEMBERED = 1024
#: Sentences of one reason in one minute, however many are concerned.
SENTENCES = 20


class Refusals:
    """Of one door: `door` names it in the metric."""

    def __init__(self, door: str, log: logging.Logger, registry: CollectorRegistry | None = None) -> None:
        self._door = door
        self._log = log
        self._count = metrics.counter(
            "edgehive_refusals", "What was refused, by door and reason.", ["door", "reason"], registry=registry
        )
        #: When each cause may be said again, and how often it was kept back since it was said.
        self._said: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        #: Of each reason: when its present minute ends, and the sentences in it.
        self._spent: dict[str, tuple[float, int]] = {}

    def count(self, reason: str) -> float:
        """How often so far."""
        return float(self._count.labels(self._door, reason)._value.get())

    def refuse(self, reason: str, text: str, *, about: str = "", level: int = logging.WARNING) -> None:
        """Note one refusal; `reason` is one of few fixed words, `about` who it concerns, `text` the sentence."""
        self._count.labels(self._door, reason).inc()
        now = asyncio.get_running_loop().time()
        quiet_until, kept_back = self._said.get((reason, about), (0.0, 0))
        if now < quiet_until:
            self._said[reason, about] = (quiet_until, kept_back + 1)
            return
        self._said[reason, about] = (now + SAY_SECONDS, 0)
        self._said.move_to_end((reason, about))
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        if more := self._may_say(reason, now):
            told = f" ({kept_back} more like this since it was said last)" if kept_back else ""
            self._log.log(
                level, "%s%s%s", text, told, "" if more > 1 else f"; further ones ({reason}) are only counted"
            )

    def _may_say(self, reason: str, now: float) -> int:
        """How many sentences of this reason the minute still has room for, this one included."""
        ends, spent = self._spent.get(reason, (0.0, 0))
        if now >= ends:
            ends, spent = now + SAY_SECONDS, 0
        self._spent[reason] = (ends, spent + 1)
        return max(0, SENTENCES - spent)
