"""Frames and rounds of the fleet, which have no socket."""

import asyncio

import pytest

from edgehive.testing.fleet import frames
from edgehive.testing.fleet.rounds import Round


def server_frame(payload: bytes, opcode: int = frames.TEXT, *, final: bool = True) -> bytes:
    masked = bytearray(frames._frame(opcode, payload))
    head = 2 + {126: 2, 127: 8}.get(masked[1] & 0x7F, 0)
    masked[1] &= 0x7F
    del masked[head : head + 4]
    if not final:
        masked[0] &= 0x7F
    return bytes(masked)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_frame_is_found_whole_or_not_at_all(size: int) -> None:
    frame = server_frame(b"x" * size)
    found = frames.find(frame + b"rest", 0, 1 << 20)
    assert found is not None
    assert (found.opcode, found.final, found.end - found.start) == (frames.TEXT, True, size)
    for cut in {1, len(frame) // 2, len(frame) - 1}:
        if cut < len(frame):
            assert frames.find(frame[:cut], 0, 1 << 20) is None


def test_a_frame_no_server_sends_is_refused() -> None:
    with pytest.raises(frames.BrokenFrame):
        frames.find(frames.text(b"masked"), 0, 1 << 20)
    with pytest.raises(frames.BrokenFrame):
        frames.find(server_frame(b"x" * 200), 0, 100)


@pytest.mark.looptime
async def test_everybody_is_called_once_a_period_and_evenly() -> None:
    loop, calls = asyncio.get_running_loop(), []
    round = Round[int](10.0, lambda member: calls.append((member, loop.time())))
    round.start()
    began = loop.time()
    for member in range(20):
        round.add(member)
        await asyncio.sleep(0.5)
    await asyncio.sleep(began + 20.05 - loop.time())
    round.remove(0)
    await asyncio.sleep(10)
    round.stop()
    for member in range(1, 20):
        assert len([at for who, at in calls if who == member]) == 2
    assert len([at for who, at in calls if who == 0]) <= 2
    busiest = max(sum(1 for _, at in calls if second <= at - began < second + 1) for second in range(30))
    assert busiest <= 4
