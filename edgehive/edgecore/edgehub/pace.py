"""A token bucket on the loop's time: how fast the edge may speak to the cloud (messageQPS, messageBurst)."""

import asyncio


class TokenBucket:
    """`rate` per second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._counted = asyncio.get_running_loop().time()

    async def take(self) -> None:
        """Wait for a token and use it; one caller at a time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._counted) * self._rate)
        self._counted = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._rate)
