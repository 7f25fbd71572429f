"""Errors a user can mend: one clear line, no traceback, exit code 2.

Every message names the file, key or value that is wrong and what would be right.
The command line prints the message of an :class:`InputError` and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: a file, key, option or value.

    Parameters
    ----------
    subject : str
        What is wrong: a path, ``path:line``, a key path or an option.
    reason : str
        Why, and what would be right.
    """

    def __init__(self, subject: object, reason: str) -> None:
        self.subject = str(subject)
        self.reason = reason
        # Both as `args`: SimPy and pickle build an exception anew from its class and these.
        super().__init__(self.subject, reason)

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}".replace("\n", " ")


class SpecError(InputError):
    """A device, system or model description that breaks its schema."""


class CapacityError(InputError):
    """Something that does not fit; the message holds needed and available."""


def reason_of(error: BaseException) -> str:
    """Why something of a user's failed, as part of one line: the error's class where it tells more."""
    if isinstance(error, InputError):
        return f"{error.subject} {error.reason}"
    return f"{type(error).__name__}: {error}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names come closest, for the end of an error message.

    Returns
    -------
    str
        ``"; did you mean 'x'?"``, or the whole list when nothing is close.

    Examples
    --------
    >>> nearest("duplx-x4", ["duplex-x4", "h100-x4"])
    "; did you mean 'duplex-x4'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
