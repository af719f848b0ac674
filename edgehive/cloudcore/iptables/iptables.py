"""Runs `iptables` and makes a chain hold what it is to hold: never through a shell, idempotent, with a deadline."""

import asyncio
import contextlib
from collections.abc import Sequence

from edgehive.cloudcore.iptables.rules import CHAIN, JUMP, SOURCES, Redirect, listed

#: How long `iptables` waits for others who change tables, and how long we wait for it.
LOCK_SECONDS, DEADLINE = 5, 15.0
_OUTPUT = 1024 * 1024


class IptablesFailed(Exception):
    """It could not be run or refused; the text says why."""


class Missing(IptablesFailed):
    """There is no such program."""


class Iptables:
    """One program (`iptables` or `ip6tables`), table nat."""

    def __init__(self, program: str) -> None:
        self.program = program

    async def hold(self, wanted: Sequence[Redirect]) -> bool:
        """Make the chain, the jumps to it and its rules true; whether anything was missing or too much."""
        printed = await self._try("-S", CHAIN)
        if printed is None:
            await self._run("-N", CHAIN)
        present = listed(printed or "")
        missing = [item for item in wanted if item not in present.values()]
        surplus = [rule for rule, item in present.items() if item not in wanted]
        for item in missing:
            await self._ensure(CHAIN, item.rule)
        for rule in surplus:
            await self._run("-D", CHAIN, *rule)
        for source in SOURCES:
            await self._ensure(source, JUMP)
        return bool(missing or surplus)

    async def remove(self) -> None:
        """Nothing of ours is left, even where only a part was there."""
        for source in SOURCES:
            while await self._try("-D", source, *JUMP) is not None:
                pass
        for command in ("-F", "-X"):
            await self._try(command, CHAIN)

    async def _ensure(self, chain: str, rule: Sequence[str]) -> None:
        if await self._try("-C", chain, *rule) is None:
            await self._run("-A", chain, *rule)

    async def _run(self, *words: str) -> str:
        status, output, errors = await self._execute(*words)
        if status:
            said = " ".join(errors.split()) or f"it ended with status {status}"
            raise IptablesFailed(f"{self.program} {' '.join(words)}: {said}")
        return output

    async def _try(self, *words: str) -> str | None:
        """None where it says that there is no such thing; raises IptablesFailed when it could not look."""
        status, output, errors = await self._execute(*words)
        # 1 is "no"; 2 a misuse, 3 a kernel without it, 4 a lack of rights or of the lock.
        if status == 1 and "ermission denied" not in errors and "not permitted" not in errors:
            return None
        if status:
            raise IptablesFailed(f"{self.program}: {' '.join(errors.split()) or f'it ended with status {status}'}")
        return output

    async def _execute(self, *words: str) -> tuple[int, str, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                self.program, "--wait", str(LOCK_SECONDS), "-t", "nat", *words,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                limit=_OUTPUT,
            )  # fmt: skip
        except FileNotFoundError:
            raise Missing(f"{self.program} is not installed on this machine") from None
        except OSError as error:
            raise IptablesFailed(f"{self.program} cannot be run: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(DEADLINE):
                output, errors = await process.communicate()
        except TimeoutError:
            raise IptablesFailed(f"{self.program} did not end within {DEADLINE:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, output[:_OUTPUT].decode(errors="replace"), errors[:4096].decode(errors="replace")
