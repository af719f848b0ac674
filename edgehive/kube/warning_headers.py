"""What an API server wants to tell the caller beside its answer: `Warning: 299 - "text"` headers, read. Pure.

Go: k8s.io/apimachinery/pkg/util/net/http.go (ParseWarningHeaders)
"""

import re
from collections.abc import Iterable

_WARNING = re.compile(r'299 +\S+ +"((?:[^"\\]|\\.)*)"(?: +"[^"]*")? *(?:,|$) *')
#: No server has more to say at once.
_LIMIT = 100


def texts(headers: Iterable[str]) -> list[str]:
    """The texts in order, each once; headers that are none are passed over."""
    found: dict[str, None] = {}
    for header in headers:
        position = 0
        while len(found) < _LIMIT and (match := _WARNING.match(header, position)) is not None:
            found[re.sub(r"\\(.)", r"\1", match[1])] = None
            position = match.end()
    return list(found)
