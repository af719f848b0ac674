"""The story of one simulated schedule: who did what, when, and about which object; printed when a schedule fails."""

import asyncio
from collections import deque
from typing import NamedTuple

#: Lines kept; the oldest go.
LIMIT = 20_000


class Line(NamedTuple):
    at: float
    who: str
    what: str
    #: The name of the object it is about, "" for what concerns all.
    about: str

    def __str__(self) -> str:
        return f"{self.at:10.3f}  {self.who:<8} {self.what}"


class Story:
    """Grows while a schedule runs."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=LIMIT)

    def tell(self, who: str, what: str, about: str = "") -> None:
        self._lines.append(Line(asyncio.get_running_loop().time(), who, what, about))

    def about(self, *names: str) -> list[str]:
        """What concerned these objects, or everybody; with no name everything."""
        return [str(line) for line in self._lines if not names or line.about in ("", *names)]
