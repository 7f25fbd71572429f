"""Text as part of a YAML file: nothing in it is lost or read as something else."""

from __future__ import annotations

import yaml


def quoted(text: str) -> str:
    r"""Text in double quotes, what cannot be seen spelled out.

    Examples
    --------
    >>> print(quoted('Intel "Xeon"'))
    "Intel \"Xeon\""
    """
    special = {'"': '\\"', "\\": "\\\\"}
    shown = (special.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(shown)}"'


def scalar(text: str) -> str:
    """Text as it stands where YAML reads it back so, else quoted.

    Examples
    --------
    >>> scalar("h100"), scalar("no"), scalar("a: b")
    ('h100', '"no"', '"a: b"')
    """
    try:
        plain = yaml.safe_load(f"[{text}]") == [text] and yaml.safe_load(f"a: {text}") == {"a": text}
    except (yaml.YAMLError, ValueError):
        plain = False
    return text if plain else quoted(text)
