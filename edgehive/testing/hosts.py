"""Hosts that are namespaces of this machine, and the processes on them.

For demonstrations, benchmarks and the trials with other implementations. A host has its own network, mounts and
processes and ends with its first process, so that nothing of it can outlive its user. Never touches this machine's
files: a folder named in `private` is written to a layer of its own.
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


class DemonstrationFailed(Exception):
    """A step did not come true; the text says which, and where its log is."""


class Host:
    """Network, mount, host-name and process namespaces that live as long as their first process."""

    def __init__(self, name: str, *, private: Sequence[str] = (), layers: Path | None = None) -> None:
        """What the host writes below a folder of `private` goes to a layer below `layers`."""
        self.name = name
        steps = [f"hostname {name}", "ip link set lo up"]
        for folder in private:
            assert layers is not None
            upper, work = (layers / f"{name}{folder.replace('/', '-')}-{part}" for part in ("upper", "work"))
            upper.mkdir(parents=True)
            work.mkdir()
            options = f"lowerdir={folder},upperdir={upper},workdir={work}"
            steps.append(f"mount -t overlay overlay -o {shlex.quote(options)} {shlex.quote(folder)}")
        # The shell stays to collect the processes its host leaves behind.
        script = " && ".join([*steps, "echo up", "sleep infinity & wait; wait"])
        flags = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(  # noqa: S603 - no shell of the caller's words
            ["unshare", *flags, "bash", "-c", script],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            raise DemonstrationFailed(f"this machine cannot make namespaces for the host {name}; see the message above")
        self.pid = children(self._holder.pid)[0]

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid", "--", *words]

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """The output of a program on this host; DemonstrationFailed with its last words when it fails."""
        return run(*self.command(*words), timeout=timeout)

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


class Machine(Host):
    """This machine itself in the role of a host: it reaches clusters the way it always does."""

    def __init__(self) -> None:
        self.name = "this machine"
        self.pid = os.getpid()

    def command(self, *words: str) -> list[str]:
        return list(words)

    def end(self) -> None:
        """Stays."""


class Program:
    """A process on a host; its output goes to a log."""

    def __init__(self, host: Host, log: Path, *words: str) -> None:
        self.log = log
        with log.open("ab") as output:
            self._outer = subprocess.Popen(  # noqa: S603 - the test's own words
                host.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._nested = not isinstance(host, Machine)

    @property
    def pid(self) -> int:
        """As this machine counts processes."""
        return next(iter(children(self._outer.pid)), 0) if self._nested else self._outer.pid

    def alive(self) -> bool:
        return self._outer.poll() is None

    def kill(self) -> None:
        """As power loss would: without a word."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
        self._outer.wait()

    def stop(self, patience: float = 20.0) -> None:
        if self.alive() and (pid := self.pid):
            os.kill(pid, signal.SIGTERM)
        try:
            self._outer.wait(patience)
        except subprocess.TimeoutExpired:
            if pid := self.pid:
                os.kill(pid, signal.SIGKILL)
            self._outer.kill()
            self._outer.wait()


def run(*words: str, timeout: float = 60.0) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise DemonstrationFailed(f"`{' '.join(words)}` takes longer than {timeout:.0f} s") from None
    if done.returncode != 0:
        raise DemonstrationFailed(f"`{' '.join(words)}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"{log} is empty"


def below_shims(socket: str) -> list[int]:
    """Every process below a shim of the containerd at this socket, shims first."""
    parents: dict[int, int] = {}
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if "containerd-shim" in command and socket in command:
            found.append(int(entry.name))
    while fresh := [pid for pid, parent in parents.items() if parent in found and pid not in found]:
        found += fresh
    return found
