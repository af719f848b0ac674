"""`mapper dev` on a terminal: a live table, a command line below it, and the terminal as it was afterwards."""

import asyncio
import os
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "thermometer"


class Screen:
    """A process on a pseudo-terminal and everything it has drawn."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.drawn = ""
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.ours, self._read)

    def _read(self) -> None:
        self.drawn += os.read(self.ours, 65536).decode(errors="replace")
        self._changed.set()

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    async def until(self, text: str) -> None:
        async with asyncio.timeout(30):
            while text not in self.drawn:
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.ours)
        os.close(self.ours)
        os.close(self.theirs)


async def test_values_are_drawn_and_set_from_the_keyboard() -> None:
    screen = Screen()
    code = "from edgehive.mapper.app import main; main()"
    words = ["dev", str(FOLDER / "thermometer.py"), "--device", str(FOLDER / "device.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words,
        stdin=screen.theirs, stdout=screen.theirs, stderr=screen.theirs, env=environment,
    )  # fmt: skip
    await screen.until("temperature")
    await screen.until("21.0")
    screen.type("targetx\x7f=25\r")
    await screen.until("kitchen: target shall be 25")
    await screen.until("25.0")
    screen.type("target=99\r")
    await screen.until("above the maximum 30")
    screen.type("q\r")
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    assert termios.tcgetattr(screen.theirs) == screen.before
    screen.close()
