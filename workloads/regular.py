"""Files as input: regular ones of a bounded size, so that nothing blocks or fills memory.

A device such as ``/dev/zero`` has the size 0 and never ends; a pipe without a writer blocks
whoever opens it. Both are refused before a byte is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import InputError


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises
    ------
    InputError
        No such file, a folder, a pipe or device, or a file that may not be read.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would block here.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise InputError(path, "no such file") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except ValueError:  # a path that no file can have
        raise InputError(f"{str(path)!r:.60}", "is not a file name") from None
    file = os.fdopen(handle, "rb") if not stat.S_ISDIR(os.fstat(handle).st_mode) else None
    if file is None:
        os.close(handle)
        raise InputError(path, "is a folder, not a file")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise InputError(path, "is a pipe or device; give a regular file")
    return file


def read_regular(path: Path, most: int, what: str) -> bytes:
    """Read a whole regular file of at most `most` bytes.

    Parameters
    ----------
    what : str
        What a larger file cannot be, for the message: "a description".

    Raises
    ------
    InputError
        As `open_regular`, or a file that is larger.
    """
    with open_regular(path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise InputError(path, f"is larger than {most >> 20} MiB; not {what}")
    return data
