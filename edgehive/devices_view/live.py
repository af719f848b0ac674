"""The pictures that move: drawn anew when something changed, and every second as values grow older.

At most four pictures a second, however much happens. While the API is away the last picture stays, and says so.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from edgehive.devices_view import plot
from edgehive.devices_view.choice import Chosen
from edgehive.devices_view.rows import Kinds, number_of, shown, view_of, views
from edgehive.devices_view.source import Followed, Trouble
from edgehive.devices_view.table import Judge, age_text, one_line, picture
from edgehive.kit.clock import Clock

#: Seconds between two pictures, at least.
FRAME = 0.25
#: Lines of a terminal below a plot.
_PLOT_SPARE = 5

Picture = Callable[[Kinds, str], RenderableType]


async def follow(followed: Followed, first: Kinds, console: Console, clock: Clock, draw: Picture) -> None:
    """Draw until cancelled; `first` is what is shown until everything is followed."""
    seen: object = None
    async with followed:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                now = clock.now()
                state = (followed.versions, followed.trouble, int(now.timestamp()), console.size)
                if state != seen:
                    seen = state
                    kinds = followed.kinds if followed.synced else first
                    live.update(draw(kinds, away(followed.trouble, clock)), refresh=True)
                await asyncio.sleep(FRAME)


def away(trouble: Trouble | None, clock: Clock) -> str:
    """What is said while the API is away."""
    if trouble is None:
        return ""
    since = trouble.since.astimezone().strftime("%H:%M:%S")
    age = age_text(clock.now() - trouble.since)
    return f"the API is away since {since} ({age}): {shown(trouble.reason, 200)}; this is what was known then"


@dataclass(frozen=True, slots=True)
class TablePicture:
    """All devices, or those of a name."""

    console: Console
    judge: Callable[[], Judge]
    name: str

    def __call__(self, kinds: Kinds, note: str) -> RenderableType:
        documents = kinds.devices.items()
        total = sum(self.name in ("", document.meta.name) for document in documents)
        return picture(views(kinds, self.name), total, self.judge(), self.console.size, note)


@dataclass(slots=True)
class PlotPicture:
    """One property, from when the command was started on: the API keeps no history."""

    console: Console
    clock: Clock
    chosen: Chosen
    window: float
    _history: plot.History = field(init=False)
    _last: tuple[str | None, object] = (None, None)
    _note: str = ""

    def __post_init__(self) -> None:
        self._history = plot.History(self.window)

    def __call__(self, kinds: Kinds, note: str) -> RenderableType:
        self.take(kinds)
        lines = self.lines(self.console.width, self.console.height - _PLOT_SPARE)
        said = [one_line(text, colour) for text, colour in ((self._note, "yellow"), (note, "red")) if text]
        return Group(one_line(lines[0], "bold"), Text("\n".join(lines[1:-1]), "cyan"), one_line(lines[-1]), *said)

    def take(self, kinds: Kinds) -> None:
        """Remember the value if it is another than before."""
        device = kinds.devices.get(self.chosen.device, self.chosen.namespace)
        rows = view_of(device, kinds).properties if device is not None else ()
        row = next((row for row in rows if row.name == self.chosen.row.name), None)
        self._note = "the device is gone" if device is None else ""
        if row is None or row.reported is None or (row.reported, row.reported_at) == self._last:
            return
        now = self.clock.now()
        # Edges' clocks are their own: only the value that was there before us is placed by them.
        is_first = self._last == (None, None)
        at = min(row.reported_at, now) if is_first and row.reported_at is not None else now
        self._last = (row.reported, row.reported_at)
        number = number_of(row.reported)
        if number is None:
            self._note = f"the value {shown(row.reported)} is no number"
        else:
            self._history.add(plot.Sample(at.timestamp(), number))

    def lines(self, width: int, height: int) -> list[str]:
        """Title, curve, figures."""
        end = self.clock.now().timestamp()
        start, samples = end - self.window, self._history.samples()
        unit = shown(self.chosen.row.unit)
        title = f"{self.chosen.namespace}/{self.chosen.device}  {shown(self.chosen.row.name)}"
        curve = plot.draw(samples, start=start, end=end, width=width, height=height)
        return [f"{title}  [{unit}]" if unit else title, *curve, plot.summary(samples, start, end, unit)]


async def watch_once(followed: Followed, first: Kinds, picture: PlotPicture) -> None:
    """Take values for one window."""
    picture.take(first)
    async with followed:
        for _ in range(math.ceil(picture.window / FRAME)):
            await asyncio.sleep(FRAME)
            if followed.synced:
                picture.take(followed.kinds)
