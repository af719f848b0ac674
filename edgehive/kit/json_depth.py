"""How deep JSON text nests, told before anything decodes it: readers that descend run out of stack. Pure.

For whoever takes JSON from others: hub frames and the bodies of the API. Objects of Kubernetes nest some 30 levels.
"""

#: Deeper JSON is refused.
MAX_DEPTH = 200

_STRUCTURE = b"[]{}"
_NOT_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_ONE_BRACKET = bytes.maketrans(b"{}", b"[]")


def too_deep(text: bytes) -> bool:
    """Whether JSON text nests deeper than is accepted."""
    return text.count(b"[") + text.count(b"{") > MAX_DEPTH and depth_exceeds(text, MAX_DEPTH)


def depth_exceeds(text: bytes, limit: int) -> bool:
    """Whether JSON text nests deeper than `limit`; cheap, since only C-level passes over bytes are made."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(text.split(b'"')[::2])
    brackets = outside_strings.translate(_ONE_BRACKET, _NOT_STRUCTURE)
    # Every pass peels the innermost pairs: as many passes as levels.
    for _ in range(limit):
        if not brackets:
            return False
        peeled = brackets.replace(b"[]", b"")
        if len(peeled) == len(brackets):
            return brackets.count(b"[") > limit
        brackets = peeled
    return bool(brackets)
