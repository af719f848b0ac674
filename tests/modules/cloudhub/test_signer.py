"""The process that computes with keys: it comes, answers, goes when it is quiet, and its end harms nobody."""

import asyncio
import os
import signal
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path

import pytest

from edgehive.cloudcore.cloudhub import questions
from edgehive.cloudcore.cloudhub.signer import Signer, SignerUnavailable
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.wire.link import JoinRefused

NOW = SystemClock().now()
NEW_CA = questions.NewAuthority("KubeEdge", 1, NOW, timedelta(days=1))


def children() -> set[int]:
    text = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return {int(pid) for pid in text.split()}


async def until(condition: Awaitable[bool] | object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


def request_of(ca: tls.KeyPair, name: str) -> questions.SignRequest:
    csr = tls.request(tls.new_key(), f"system:node:{name}", ["system:nodes"])
    return questions.SignRequest(ca, csr, "n1", [2], NOW, timedelta(days=1))


async def test_the_process_ends_when_it_is_quiet_and_comes_back() -> None:
    before = children()
    async with Signer(quiet=0.05) as signer:
        assert children() == before
        first = (await signer.ask(NEW_CA)).pair
        assert first.certificate
        await until(lambda: not signer.running and children() == before)
        assert (await signer.ask(NEW_CA)).certificate != first.certificate
    assert children() == before


async def test_answers_reach_those_who_asked() -> None:
    async with Signer() as signer:
        ca = (await signer.ask(NEW_CA)).pair
        asked = [request_of(ca, "n1"), request_of(ca, "n2"), request_of(ca, "n1")]
        good, foreign, bad, also_good = await asyncio.gather(
            signer.ask(asked[0]),
            signer.ask(asked[1]),
            signer.ask(questions.SignRequest(ca, b"garbage", "n1", [2], NOW, timedelta(days=1))),
            signer.ask(asked[2]),
            return_exceptions=True,
        )
        assert isinstance(foreign, JoinRefused)
        assert isinstance(bad, ValueError)
        assert isinstance(good, questions.Answer)
        assert isinstance(also_good, questions.Answer)
        assert good.certificate != also_good.certificate


async def test_a_killed_process_fails_who_waits_and_the_next_question_starts_another() -> None:
    before = children()
    async with Signer() as signer:
        await signer.ask(NEW_CA)
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        waiting = [asyncio.ensure_future(signer.ask(NEW_CA)) for _ in range(3)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {SignerUnavailable}
        assert (await signer.ask(NEW_CA)).certificate


async def test_a_process_that_hangs_is_given_up_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    async with Signer() as signer:
        await signer.ask(NEW_CA)
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(signer, "_patience", 0.1)
        with pytest.raises(SignerUnavailable, match=r"within 0\.1 s"):
            await signer.ask(NEW_CA)
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        assert (await signer.ask(NEW_CA)).certificate


async def test_the_line_is_bounded() -> None:
    async with Signer(max_waiting=2) as signer:
        ends = await asyncio.gather(*(signer.ask(NEW_CA) for _ in range(5)), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, SignerUnavailable)]
        assert len(refused) == 3
        assert "try again later" in str(refused[0])
