"""Errors a user can mend: one clear line, no traceback, exit code 2.

Every message names the file, key or value that is wrong and what would be right.
The command line prints the message of an :class:`InputError` and nothing else.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

MOST_SHOWN = 200
"""Maximum characters of a quoted text in a message."""
MOST_LISTED = 120
"""Maximum characters of a list of names in a message, so that the message fits into one line of 200."""
LONG = re.compile(rf"\S{{{MOST_SHOWN + 1},}}|(?<=')[^']{{{MOST_SHOWN + 1},}}(?=')")

OPTION = re.compile(r"""(?<![\w/.'"-])--([a-z][\w-]*)""")
"""Pattern of a command-line option in a message."""
P = ParamSpec("P")
R = TypeVar("R")


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
        return shortened(f"{self.subject}: {self.reason}".replace("\n", " "))

    def name_parameters(self) -> None:
        """Replace command-line options in the message by the names of a function's parameters."""
        self.subject, self.reason = (
            OPTION.sub(lambda match: match[1].replace("-", "_"), text) for text in (self.subject, self.reason)
        )
        self.args = (self.subject, self.reason)


def shortened(text: str) -> str:
    """Shorten long words and quotations of a message to their two ends.

    Examples
    --------
    >>> len(shortened("a" * 5000 + ".csv: no such file")) < 250
    True
    """
    half = MOST_SHOWN // 2
    return LONG.sub(lambda match: f"{match[0][: half - 3]}...{match[0][-half:]}", text)


@contextmanager
def errors_in(where: object) -> Iterator[None]:
    """Add the place in a file to errors raised inside this context, unless they name it already.

    Examples
    --------
    >>> with errors_in("runs.csv:3"):
    ...     raise InputError("--tp", "must be 1")
    Traceback (most recent call last):
    ...
    opbyte.workloads.errors.InputError: runs.csv:3: --tp must be 1
    """
    try:
        yield
    except InputError as error:
        if str(where) in error.subject:
            raise
        raise type(error)(where, f"{error.subject} {error.reason}") from None


class SpecError(InputError):
    """A device, system or model description that breaks its schema."""


class CapacityError(InputError):
    """A size that exceeds the memory or another limit; the message gives the needed and the available amount."""


def for_scripts(function: Callable[P, R], name: str) -> Callable[P, R]:
    """Wrap a library function for use in scripts: its errors name parameters instead of command-line options.

    Examples
    --------
    >>> def serve(tp: int) -> None:
    ...     raise InputError("--tp", "must be 1 with --policy-of-mine")
    >>> for_scripts(serve, "serve")(2)
    Traceback (most recent call last):
    ...
    opbyte.workloads.errors.InputError: tp: must be 1 with policy_of_mine
    """

    @wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> R:
        try:
            return function(*args, **options)
        except InputError as error:
            error.name_parameters()
            raise

    called.__module__, called.__qualname__ = "opbyte", name  # so that it can be pickled
    return called


def reason_of(error: BaseException) -> str:
    """Return the reason of a failure in user code, with the exception's class if it is not an `InputError`."""
    if isinstance(error, InputError):
        return f"{error.subject} {error.reason}"
    return f"{type(error).__name__}: {error}"


def visible(text: str) -> str:
    r"""Return a text that is safe to print: control characters are escaped.

    Names come from files and folders, and a file's name may contain an escape sequence, a direction mark, or bytes that
    are not UTF-8.

    Examples
    --------
    >>> visible("a" + chr(27) + "[31mb")
    'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    keep = ("\n", "\t")
    return "".join(
        c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in text
    )


def _digits(name: str) -> str:
    """Return a name in lower case in which letters that look like digits are replaced by those digits."""
    return name.lower().translate(str.maketrans("oli", "011"))


def typed_number(text: object) -> float:
    """Return a number that a user typed; NaN if the text is not a number. Unlike Python, refuse underscores (1_0).

    Examples
    --------
    >>> typed_number("2.5"), typed_number("1_0"), typed_number("fast")
    (2.5, nan, nan)
    """
    try:
        return math.nan if "_" in str(text) else float(str(text))
    except ValueError:
        return math.nan


def check_known(where: object, name: object, known: Collection[str], reason: str) -> None:
    """Refuse an unknown name; the message adds the most similar known names."""
    if name not in known:
        raise InputError(where, f"{reason}{nearest(str(name), known)}")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known names that are most similar to `name`, as the end of an error message.

    Parameters
    ----------
    cutoff : float
        How alike they must be, from 0 to 1, as `difflib.SequenceMatcher.ratio` counts it.

    Returns
    -------
    str
        ``"; did you mean 'x'?"``, or the known names that begin with it, or all when nothing is close: as many as fit into a line.

    Examples
    --------
    >>> nearest("duplx-x4", ["duplex-x4", "h100-x4"])
    "; did you mean 'duplex-x4'?"
    >>> nearest("h1OO", ["b200", "h100", "h20"])
    "; did you mean 'h100'?"
    >>> nearest("Qwen3-235B", ["qwen3-32b", "qwen3-235b-a22b"])
    "; did you mean 'qwen3-235b-a22b'?"
    >>> nearest("qwen3", ["h100", "qwen3-32b", "qwen3-235b-a22b"])
    '; known: qwen3-235b-a22b, qwen3-32b'
    >>> nearest("zzz", map(str, range(100, 200)))[-31:]
    '121, 122, 123, ... (100 in all)'
    """
    names = sorted(known)
    text = str(name)
    close = [candidate for candidate in names if _digits(candidate) == _digits(text)]
    if not close and len(text) > 3 and text[0] != "-":  # a short option may mean another one
        begun = [candidate for candidate in names if candidate.startswith(text.lower())]
        close = difflib.get_close_matches(text.lower(), begun, n=1, cutoff=0.8) or begun
        if len(close) > 1:
            return f"; known: {listed(close)}"
    close = close or difflib.get_close_matches(text, names, n=1, cutoff=cutoff)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {listed(names)}" if names else ""


def listed(names: Sequence[str]) -> str:
    """Return names as a comma-separated list, cut to `MOST_LISTED` characters and then with their number.

    Examples
    --------
    >>> len(listed(["x" * 5000, "h100"]))
    136
    """
    text = ", ".join(names)
    if len(text) <= MOST_LISTED:
        return text
    end = text.rfind(", ", 0, MOST_LISTED)
    return f"{text[: end if end > 0 else MOST_LISTED]}, ... ({len(names)} in all)"
