"""One-line usage errors of the option parser, and parsers of numbers.

Typer's messages lack the given value or the nearest name, and differ between releases. So the message is built here
from the exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import typer

from ...simulator.option import ALIASES, meant
from ...workloads.errors import nearest, typed_number


def translated(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `ALIASES` replaced, and ``help COMMAND`` as ``COMMAND --help``.

    Examples
    --------
    >>> translated(["simulate", "--isl", "64", "--tensor-parallel-size=2"])
    ['simulate', '--input-len', '64', '--tp=2']
    >>> translated(["help", "simulate"])
    ['simulate', '--help']
    """
    out = []
    for text in arguments:
        name, equals, value = text.partition("=")
        out.append(f"{ALIASES.get(name, name)}{equals}{value}" if name in ALIASES else text)
    if out[:1] == ["help"]:
        return [*out[1:], "--help"]
    return out


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
    value = typed_number(text)
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, not {_shown(text)}")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def usage_line(error: Any, commands: list[str]) -> str:
    """Return one line that says what is wrong with a command line, and how to correct it.

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
        return f"{name!r}: no such command{_known(name, _command(error).partition(' ')[2], commands)}"
    if option and message.startswith("No such option"):
        close = meant(option, _options(error)) or f"; see {_command(error)} --help"  # a list of forty helps nobody
        return f"{option}: no such option of {_command(error)}{close}"
    if option:
        return f"{option}: {_lower(message)}"
    if param is None:
        commas = ", lists are comma-separated" if "extra argument" in message else ""
        return f"{_command(error)}: {_lower(message)}{commas}; see {_command(error)} --help"
    if message.startswith("Missing"):
        return f"{_name(param)}: is needed ({getattr(param, 'help', None) or 'see --help'})"
    return f"{_name(param)}: {_lower(str(error.message))}"


def _known(name: str, group: str, commands: list[str]) -> str:
    """Return the matching command of the group, or of all; else the existing names, groups by name only."""
    if group:
        return nearest(f"{group} {name}", [c for c in commands if c.startswith(f"{group} ")])
    groups = {command.partition(" ")[0] for command in commands}
    close = nearest(name, {*commands, *groups})
    return close if close.startswith("; did you mean") else nearest(name, groups)


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
    """Return a parameter as the user writes it: its longest option, or the argument in capitals."""
    options = [name for name in param.opts if name.startswith("-")]
    return max(options, key=len) if options else str(param.name).upper()
