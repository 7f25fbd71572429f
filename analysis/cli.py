"""The command line: thin, and light to start; every command is a function of the library.

Exit codes: 0 done, 1 a check failed, 2 bad input or usage (one line on stderr). Each module of
``commands`` is one command or group; adding a module adds the command.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import typer

from ..workloads.errors import InputError
from ..workloads.plugins import load_plugins
from . import commands
from .commands.app import app, names
from .commands.usage import usage_line

for _module in pkgutil.iter_modules(commands.__path__):
    importlib.import_module(f"{commands.__name__}.{_module.name}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback for bad input."""
    command = typer.main.get_command(app)
    try:
        load_plugins()
        status = command.main(arguments, prog_name="opbyte", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        _fail(str(error), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        _give_up_output()  # the reader of a pipe left; nothing to tell it
        raise SystemExit(1) from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is not None:
            _fail(f"{error.filename}: cannot be used ({reason})", 2)
        _give_up_output()
        _fail(f"standard output: cannot be written ({reason})", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not from the option parser
            raise
        _fail(usage_line(error, names()), 2)
    raise SystemExit(status if isinstance(status, int) else 0)


def _give_up_output() -> None:
    """Send what is still buffered nowhere, or Python complains about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _fail(message: str, code: int) -> None:
    print(f"opbyte: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
