"""`Fatal`: the mark of errors that no second try can mend.

Raised by anything in a process, heeded by the Hive: the process ends with the error's own sentence.
"""


class Fatal(Exception):
    """The text is one sentence with the mend, which only a person can make."""


def fatal_in(error: BaseException | None) -> Fatal | None:
    """The Fatal that an error is or, as a group, holds."""
    if isinstance(error, Fatal):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for item in inner if (found := fatal_in(item)) is not None), None)
