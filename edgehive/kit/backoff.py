"""Growing, jittered waiting times for whoever must try again. Pure: it computes delays and never sleeps."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first * factor**n` seconds up to `limit`, spread by `jitter` (0.5: between half and one and a half)."""

    first: float = 1.0
    factor: float = 2.0
    limit: float = 60.0
    jitter: float = 0.5

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt` (0 is the first)."""
        # A float power overflows near 2**1024; past 60 doublings the limit has long been reached.
        plain = min(self.limit, self.first * self.factor ** min(attempt, 60))
        spread = 1 + self.jitter * (2 * random.random() - 1)  # noqa: S311
        return float(min(self.limit, plain * spread))

    def delays(self) -> Iterator[float]:
        """Endless delays for one run of failures; start a new iterator after a success."""
        attempt = 0
        while True:
            yield self.delay(attempt)
            attempt += 1
