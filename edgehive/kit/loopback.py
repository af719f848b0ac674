"""For doors that only this machine reaches: which addresses are such, and which requests browsers make for web pages.

A page of anybody's that is open in a browser on this machine reaches them, too, and such doors know no users: pages
are kept out by what browsers say of their requests and pages cannot change. Pure.
"""

import ipaddress
from collections.abc import Mapping

#: Where a request comes from, when it is no page: an address somebody typed, or no browser.
_NO_PAGE = frozenset({"", "none"})


def is_loopback(host: str) -> bool:
    """Whether a host, as in an address to listen at, is this machine's alone; `[::1]` may have its brackets."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_from_web_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends a request for a page: none is served where these doors are."""
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "") not in _NO_PAGE


def names_this_machine(authority: str) -> bool:
    """Whether `Host` of a request is a loopback address: a page may have its own name mean one (DNS rebinding)."""
    host, _, port = authority.rpartition(":")
    return is_loopback(host if host and port.isdecimal() else authority)
