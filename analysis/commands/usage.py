"""One-line usage errors of the option parser, and parsers of numbers.

Typer's messages lack the given value or the nearest name, and differ between releases. So the message is built here
from the exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ...workloads.errors import nearest, typed_number
from ...workloads.yamlfile import read_yaml

_LISTED = read_yaml(Path(__file__).parent / "words.yaml")
ALIASES: dict[str, str] = _LISTED["aliases"]
INSTEAD: dict[str, str] = _LISTED["instead"]
MEANT: dict[str, str] = _LISTED["meant"]


def meant(option: str, known: Sequence[str]) -> str:
    """Return a hint at the known option that an unknown one resembles most; empty if no option stands out.

    Examples
    --------
    >>> meant("--batch-size", ["--max-seqs", "--rate", "--cv"])
    "; did you mean '--max-seqs'?"
    >>> meant("--rate", ["--load", "--rate-profile"])
    "; did you mean '--load'?"
    >>> meant("--burstiness", ["--max-seqs", "--rate", "--cv"])
    "; did you mean '--cv'?"
    >>> meant("--colour", ["--max-seqs", "--rate", "--cv"])
    ''
    """
    here = ALIASES.get(option, INSTEAD.get(option))
    if here in known:
        return f"; did you mean {here!r}?"
    words = {word for word in option.strip("-").lower().replace("_", "-").split("-") if len(word) > 1}
    scores = sorted(((_alike(words, name), name) for name in known), reverse=True)
    best = scores[0] if scores else (0.0, "")
    if best[0] < 0.5 or (len(scores) > 1 and scores[1][0] == best[0]):
        return ""
    return f"; did you mean {best[1]!r}?"


def _alike(words: set[str], name: str) -> float:
    """Return the share of the words in an option's name or meaning; words of its name count slightly more."""
    words_of_name = set(name.strip("-").split("-"))
    also = set(MEANT.get(name, "").split())
    score = sum(1.1 if w in words_of_name else 1.0 if w in also else 0.0 for w in words)
    return score / len(words) if words else 0.0


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
        close = nearest(option, _options(error), cutoff=0.8)
        if not close.startswith("; did you mean"):
            close = meant(option, _options(error))
        if not close:  # a list of forty helps nobody
            close = f"; see {_command(error)} --help"
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
