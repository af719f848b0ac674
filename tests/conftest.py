"""What every test shares: steady examples in CI, one outer event loop that is closed, and what marked tests need."""

import asyncio
import os
import shutil

import pytest
from hypothesis import settings

from edgehive.edgesite.containerd import ContainerdUnavailable, preflight

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `kubectl` or `containerd` says what is missing and skips; in CI, where all is there, it fails."""
    missing = []
    if item.get_closest_marker("kubectl") and shutil.which("kubectl") is None:
        missing.append("kubectl is needed")
    if item.get_closest_marker("containerd"):
        try:
            preflight()
        except ContainerdUnavailable as error:
            missing.append(str(error))
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("; ".join(missing))
