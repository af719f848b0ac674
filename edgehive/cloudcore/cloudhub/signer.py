"""`Signer`: hands questions to the process that computes with keys, and starts and ends that process.

An idle cloudcore has no such process: it ends after some seconds without a question and is started by the next
one. The line of waiting questions is bounded and every question has a deadline; a process that dies or hangs fails
those that wait for it, and nobody else.
"""

import asyncio
import contextlib
import logging
import sys
from collections import deque

import msgspec

from edgehive.cloudcore.cloudhub.questions import LENGTH_BYTES, MAX_FRAME, Answer, Question, frame
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.link import JoinRefused

log = logging.getLogger("edgehive.cloudhub")

QUIET_SECONDS = 10.0
ANSWER_SECONDS = 15.0
MAX_WAITING = 512
END_SECONDS = 2.0

_decoder = msgspec.msgpack.Decoder(Answer)


class SignerUnavailable(Exception):
    """No answer can be had now; the text says why."""


class Signer:
    """Use as an async context manager."""

    def __init__(
        self, *, quiet: float = QUIET_SECONDS, patience: float = ANSWER_SECONDS, max_waiting: int = MAX_WAITING
    ) -> None:
        self._quiet = quiet
        self._patience = patience
        self._max_waiting = max_waiting
        self._asking = 0
        self._worker: _Worker | None = None
        self._starting = asyncio.Lock()
        self._rest: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Signer":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._retire()
        await asyncio.gather(*self._ending)

    async def ask(self, question: Question) -> Answer:
        """The answer without a fault; raises JoinRefused or ValueError for one, SignerUnavailable for none."""
        if self._asking >= self._max_waiting:
            raise SignerUnavailable(f"{self._asking} certificates are being made; try again later")
        self._asking += 1
        try:
            answer = await self._answer(question)
        finally:
            self._asking -= 1
            self._rest_later()
        if answer.fault:
            raise JoinRefused(answer.fault) if answer.refused else ValueError(answer.fault)
        return answer

    @property
    def running(self) -> bool:
        return self._worker is not None

    async def _answer(self, question: Question) -> Answer:
        try:
            async with asyncio.timeout(self._patience):
                async with self._starting:
                    if self._worker is None or self._worker.broken:
                        self._retire()
                        self._worker = await _Worker.start()
                    answer = self._worker.ask(question)
                return await answer
        except TimeoutError:
            # Whatever holds it up holds up those behind it too.
            self._retire()
            raise SignerUnavailable(f"no certificate within {self._patience:g} s; try again later") from None
        except OSError as error:
            raise SignerUnavailable(f"the signing process cannot be used: {error}") from error

    def _rest_later(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = None
        if not self._asking and self._worker is not None:
            self._rest = asyncio.get_running_loop().call_later(self._quiet, self._retire)

    def _retire(self) -> None:
        """End the process; those who still wait for it are told."""
        worker, self._worker = self._worker, None
        if worker is not None:
            task = spawn(worker.end(), name="end of the signing process")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class _Worker:
    """One process and those who wait for its answers, in the order they asked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input, self._output = process.stdin, process.stdout
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        self._reader = spawn(self._read(), name="answers of the signing process")
        self.broken = False

    @classmethod
    async def start(cls) -> "_Worker":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edgehive.cloudcore.cloudhub.signing",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_FRAME,
        )
        return cls(process)

    def ask(self, question: Question) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._input.write(frame(question))
        return answer

    async def end(self) -> None:
        self.broken = True
        await cancel_and_join(self._reader)
        self._input.close()
        with contextlib.suppress(ProcessLookupError):
            try:
                async with asyncio.timeout(END_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _read(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._output.readexactly(LENGTH_BYTES), "big")
                answer = _decoder.decode(await self._output.readexactly(size))
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_result(answer)
        except (asyncio.IncompleteReadError, msgspec.MsgspecError, OSError) as error:
            log.warning("the signing process ended unexpectedly: %s", error)
        finally:
            self.broken = True
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_exception(SignerUnavailable("the signing process ended; try again"))
