"""The command line: thin, and light to start; every command is a function of the library.

Exit codes: 0 done, 1 a check failed, 2 bad input or usage (one line on stderr), 128 and the
signal's number where one ended it (130: interrupted, 143: terminated). Commands are
listed in ``commands/commands.yaml``; plug-ins may add more.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import sys
import traceback
from functools import cache
from typing import Any

import typer

from ..workloads.errors import InputError, shortened, visible
from ..workloads.plugins import load_plugins
from .commands.app import LISTED, app, names, with_options_of
from .commands.usage import translated, usage_line
from .show.interrupt import Ended, endable
from .show.record import typed

with contextlib.suppress(InputError):  # which `main` tells; parts of plug-ins have options of their own
    load_plugins()
importlib.import_module(".commands.options", __package__)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback for bad input."""
    if arguments is None:  # in a process of its own, most objects stay: looking for others took a sixth of a warm start
        gc.set_threshold(20_000, 50)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, so that the next file would be taken for it
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal's encoding may lack a name's letters
            stream.reconfigure(errors="backslashreplace")
    try:
        given = sys.argv[1:] if arguments is None else arguments
        with endable(), typed(given):
            load_plugins()
            words = translated(given)
            named = [word for word in words if not word.startswith("-")]
            name = named[0] if named else ""
            for former in (name, " ".join(named[:2])):
                if former in LISTED["moved"]:
                    raise InputError(f"opbyte {former}", f"is now {LISTED['moved'][former]} (docs/upgrading.md)")
            command = _command(None if COMPLETING in os.environ else name)
            status = command.main(words, prog_name="opbyte", standalone_mode=False)
            sys.stdout.flush()
    except InputError as error:
        _fail(str(error), 2)
    except Ended as error:
        _fail(str(error), error.code)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except MemoryError as error:
        _fail(f"too little memory ({str(error) or 'none left'}); ask for less at once", 2)
    except BrokenPipeError:
        _give_up_output()  # the reader of a pipe left; nothing to tell it
        raise SystemExit(1) from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is not None:
            _fail(f"{error.filename}: cannot be used ({reason})", 2)
        if not _printing(error):
            _fail(f"cannot continue ({reason}); is a disk full?", 2)
        _give_up_output()
        _fail(f"standard output: cannot be written ({reason})", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not from the option parser
            raise
        _fail(usage_line(error, names()), 2)
    raise SystemExit(status if isinstance(status, int) else 0)


COMPLETING = "_OPBYTE_COMPLETE"
"""Environment variable by which a shell requests completions; the arguments then hold no command line."""


@cache
def _command(name: str | None = None) -> Any:
    """Return the parser's commands: all with their options, or only the command `name` with its options."""
    return typer.main.get_command(app if name is None else with_options_of(name))


PRINTING = (
    "print_table",
    "print_text",
    "print_json",
    "show",
    "list_command",
    "top",
    "main",
    "echo",
    "describe",
    "init",
)
"""Functions that write to standard output."""


def _printing(error: OSError) -> bool:
    """Return whether an error without a file's name came from writing to standard output."""
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1] in PRINTING


def _give_up_output() -> None:
    """Redirect buffered output to the null device, because Python would report an error at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _fail(message: str, code: int) -> None:
    print(f"opbyte: error: {visible(shortened(' '.join(message.split())))}", file=sys.stderr)
    raise SystemExit(code)
