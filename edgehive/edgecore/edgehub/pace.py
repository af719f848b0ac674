"""A token bucket on the loop's time: how fast the edge may speak to the cloud (messageQPS, messageBurst)."""

import asyncio


class TokenBucket:
    """`rate` per second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._counted = asyncio.get_running_loop().time()
        self._held_since: float | None = None

    @property
    def held(self) -> float:
        """Seconds for which it has held back each message that came."""
        return asyncio.get_running_loop().time() - self._held_since if self._held_since is not None else 0.0

    async def take(self) -> None:
        """Wait for a token and use it; one caller at a time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._counted) * self.rate)
        self._counted = now
        self._tokens -= 1
        if self._tokens >= 0:
            self._held_since = None
            return
        self._held_since = now if self._held_since is None else self._held_since
        await asyncio.sleep(-self._tokens / self.rate)
