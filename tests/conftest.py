"""What every test shares: one outer event loop, so that none is left behind unclosed when warnings are errors."""

import asyncio

import pytest

_outer_loop: asyncio.AbstractEventLoop | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    """pytest-asyncio asks for the current loop around each test and would make one it never closes."""
    global _outer_loop
    _outer_loop = asyncio.new_event_loop()
    asyncio.set_event_loop(_outer_loop)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _outer_loop is not None:
        asyncio.set_event_loop(None)
        _outer_loop.close()
