"""What every test shares: examples that do not change in CI, and one outer event loop that is closed at the end."""

import asyncio
import os

import pytest
from hypothesis import settings

# CI judges a change by the same examples every time; looking for new ones is for whoever works on the code.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

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
