"""How far a starting site is, told through a small file to the command that started it.

The running site writes (`starting`, `ready`, `failed`), `edgesite up --detach` and `edgesite status` read.
"""

from pathlib import Path

import msgspec

from edgehive.edgesite.pki import write_private

STATE_FILE = "edgesite.state"


class State(msgspec.Struct, frozen=True):
    """The last thing the site said about itself."""

    phase: str
    text: str = ""
    pid: int = 0
    seconds: float = 0.0


class Progress:
    """Writes the state file."""

    def __init__(self, data: Path, pid: int) -> None:
        self._path = data / STATE_FILE
        self._pid = pid

    def starting(self, text: str) -> None:
        self._write(State("starting", text, self._pid))

    def ready(self, seconds: float) -> None:
        self._write(State("ready", "", self._pid, seconds))

    def failed(self, text: str) -> None:
        self._write(State("failed", text, self._pid))

    def stopped(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, state: State) -> None:
        write_private(self._path, msgspec.json.encode(state))


def read(data: Path) -> State | None:
    """What the site said last; None when it said nothing."""
    try:
        return msgspec.json.decode((data / STATE_FILE).read_bytes(), type=State)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
