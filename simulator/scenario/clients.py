"""Conversion of a benchmark client's command to workload options; `clients.yaml` has the options of each client."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ...workloads.errors import InputError, nearest
from ...workloads.formula import Formula, evaluate
from ..option import CheckedOptions, placed

OPTION = "--client"
HOLE = re.compile(r"\{(?P<flag>[^=}]+)(?P<has>=?)(?P<default>[^}]*)\}")
NOT_GIVEN = ("", "0", "inf")
"""Values that clients use for an option that is not set."""


@cache
def _clients() -> Mapping[str, Any]:
    import yaml  # not `read_yaml`, which refuses the references by which clients share lists

    return yaml.safe_load(Path(__file__).with_name("clients.yaml").read_text())  # type: ignore[no-any-return]


def read_client(command: str) -> tuple[dict[str, str], list[str]]:
    """Return the scenario options of a client's command as texts, and the client options that do not change the load.

    Raises
    ------
    InputError
        A command of no known client, an unknown option, or a value that is not supported.

    Examples
    --------
    >>> read_client("vllm bench serve --random-input-len 256 --request-rate 8 --port 8000")
    ({'requests': '1000', 'rate': '8', 'input_len': '256', 'output_len': '128'}, ['--port'])
    """
    starts = {start: (name, client) for name, client in _clients().items() for start in client["starts"]}
    start = next((start for start in starts if f"{start} " in command), None)
    if start is None:
        raise InputError(OPTION, f"must be the command of a client ({', '.join(starts)}), not {command!r:.60}")
    name, client = starts[start]
    given = dict(_given(command.partition(start)[2].replace("\\\n", " "), client))
    choices = {choice.partition("=")[0]: choice for choice in client.get("choose", {})}
    rules = [client]
    for flag, choice in choices.items():
        value, values = given.get(flag, choice.partition("=")[2]), client["choose"][choice]
        if value not in values:
            raise InputError(f"{OPTION} {flag}", f"must be one of {', '.join(values)}, not {value!r:.40}")
        rules.append(values[value])
    options, otherwise = ({o: t for r in rules for o, t in r.get(key, {}).items()} for key in ("options", "otherwise"))
    ignored = [flag for r in rules for flag in r.get("ignored", ())]
    known = {hole["flag"] for text in (*options.values(), *otherwise.values()) for hole in HOLE.finditer(text)}
    for flag in given:
        if flag not in {*known, *choices, *ignored}:
            close = nearest(flag, [*known, *choices])
            raise InputError(f"{OPTION} {flag}", f"is not a supported option of {name}{close}; remove it")
    filled = dict(_filled(options, given))
    if missing := {"input_len", "output_len"} - {*filled}:
        raise InputError(OPTION, f"has no option for {missing.pop()}; add one of {name}")
    if "rate" not in filled:
        filled.pop("cv", None)
        if "closed_loop" not in filled:
            filled |= dict(_filled(otherwise, given))
    return filled, [flag for flag in given if flag in ignored]


def _given(text: str, client: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options of a client's command with their values."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(OPTION, f"cannot be read: {error}") from None
    aliases = client.get("aliases", {})
    starts = [i for i, word in enumerate(words) if re.match("-[^0-9]", word)]
    if words and starts[:1] != [0]:
        raise InputError(OPTION, f"{words[0]!r:.40} is neither an option nor its value")
    for begin, end in zip(starts, [*starts[1:], len(words)], strict=True):
        flag, _, value = " ".join(words[begin:end]).replace(" ", "=", "=" not in words[begin]).partition("=")
        flag = flag.replace("_", "-")
        pairs = {flag: value} if flag not in client.get("fields", ()) else _fields(flag, value)
        yield from ((aliases.get(key, key), str(x)) for key, x in pairs.items())


def _fields(flag: str, text: str) -> dict[str, Any]:
    """Return the values of an option with several fields, ``KEY=VALUE,...`` or JSON; ``kind`` prefixes the other keys."""
    try:
        pairs = json.loads(text) if text.startswith("{") else dict(part.split("=", 1) for part in text.split(","))
    except (ValueError, RecursionError):
        raise InputError(f"{OPTION} {flag}", f"must be KEY=VALUE,... or JSON, not {text!r:.40}") from None
    kind = pairs.pop("kind", None)
    named, stem = ({flag: kind}, f"--{kind}") if kind else ({}, flag)
    return named | {f"{stem}.{key.strip()}": x for key, x in pairs.items()}


def _filled(templates: Mapping[str, str], given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the scenario options whose templates have a value for every placeholder."""
    for option, template in templates.items():
        if all(hole["flag"] in given or hole["has"] for hole in HOLE.finditer(template)):
            text = HOLE.sub(lambda hole: given.get(hole["flag"], hole["default"]), template)
            if text.startswith("="):
                text = f"{evaluate(Formula(text[1:], '', OPTION), {}).value:.12g}"
            if text not in NOT_GIVEN:
                yield option, text


def spelled_out(options: Mapping[str, Any], cls: type[CheckedOptions]) -> dict[str, Any]:
    """Return the options with a client's command replaced by its options; explicit options take precedence.

    Raises
    ------
    InputError
        A text that is not a number.
    """
    given, known = dict(options), placed(cls)
    command, out = given.pop("client", None), dict[str, Any]()
    for name, text in read_client(command)[0].items() if command is not None else ():
        if name not in known:
            continue
        try:
            out[name] = known[name].option.kind(text)
        except ValueError:
            raise InputError(f"{OPTION}, {known[name].flag}", f"must be one number, not {text!r:.40}") from None
    return out | given
