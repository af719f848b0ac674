"""The wall clock, injectable: certificates, tokens and leases are judged by it.

Everything that needs the date takes a `Clock`; only this file reads the machine's. Intervals and
timeouts never come from here: they are the running loop's monotonic time.
"""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the date; tests pass one they can turn."""

    def now(self) -> datetime:
        """The current instant, timezone-aware in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is set; for tests and simulations."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def set(self, instant: datetime) -> None:
        self._now = instant


def rfc3339(instant: datetime) -> str:
    """`metav1.Time`: whole seconds and a Z, as Kubernetes writes it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(instant: datetime) -> str:
    """`metav1.MicroTime`: six digits of fraction and a Z (leases, events)."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> datetime:
    """Read either form (nanoseconds are cut to microseconds); raises ValueError."""
    body, fraction, rest = text, "", ""
    if "." in text:
        body, _, tail = text.partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        fraction, rest = tail[:digits][:6], tail[digits:]
        body = f"{body}.{fraction}{rest}"
    parsed = datetime.fromisoformat(body.replace("Z", "+00:00"))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def unix_millis(instant: datetime) -> int:
    """Message headers carry integer milliseconds since 1970."""
    return int(instant.timestamp() * 1000)
