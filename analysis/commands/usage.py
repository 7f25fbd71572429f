"""Usage errors of the option parser in one line, and the parsers of numbers.

Typer's own messages leave out the value given, or the nearest name; releases of it differ in
what they say. So the line is built here from what the exception carries.
"""

from __future__ import annotations

import math
from typing import Any

import typer

from ...workloads.errors import nearest


def whole(given: object) -> int:
    """Read a whole number, digits and a sign (the parser hands defaults through, too)."""
    text = str(given)
    try:
        if "_" in text:
            raise ValueError
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number, not {_shown(text)}") from None


def number(given: object) -> float:
    """Read a number; a finite one, since no option has a use for others."""
    text = str(given)
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, not {_shown(text)}")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def usage_line(error: Any, commands: list[str]) -> str:
    """Say what is wrong with a command line, and what would be right.

    Parameters
    ----------
    error : exception of the option parser
        Has `format_message`; may have `option_name`, `param` and `message`.
    commands : list of str
        Names of all commands.
    """
    message = " ".join(error.format_message().split())
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if message.startswith("No such command"):
        name = message.split("'")[1] if "'" in message else message
        return f"{name!r}: no such command{nearest(name, commands)}"
    if option and message.startswith("No such option"):
        return f"{option}: no such option of {_command(error)}{nearest(option, _options(error))}"
    if option:
        return f"{option}: {_lower(message)}"
    if param is None:
        return f"{_command(error)}: {_lower(message)}; see {_command(error)} --help"
    if message.startswith("Missing"):
        return f"{_name(param)}: is needed ({getattr(param, 'help', None) or 'see --help'})"
    return f"{_name(param)}: {_lower(str(error.message))}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _command(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "opbyte"


def _options(error: Any) -> list[str]:
    context = getattr(error, "ctx", None)
    params = context.command.params if context is not None else []
    return ["--help", *(name for p in params for name in p.opts if name.startswith("--"))]


def _name(param: Any) -> str:
    """How the user writes a parameter: its longest option, or the argument in capitals."""
    options = [name for name in param.opts if name.startswith("-")]
    return max(options, key=len) if options else str(param.name).upper()
