"""Does every wrong command line get one line that says what would be right?"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from .conftest import Ask

R = "roofline mixtral-8x7b --system h100-x4"


def refusals() -> dict[str, tuple[str, list[str]]]:
    """Command lines of `refused.txt` with their section and the parts of the message."""
    found, section = {}, ""
    for text in Path(__file__).with_name("refused.txt").read_text(encoding="utf-8").splitlines():
        line, arrow, parts = f" {text}".partition(" => ")
        if arrow and not text.startswith("#"):
            found[line.strip()] = section, parts.split(" | ")
        elif text.startswith("["):
            section = text.strip("[]")
    return found


REFUSED = refusals()


def check(ask: Ask, line: list[str], parts: list[str]) -> None:
    message = ask(*line).refused()
    assert all(part in message for part in parts), message
    assert len(message) < 400


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line[:90] or "nothing")
def test_a_wrong_command_line_is_one_clear_line(ask: Ask, line: str) -> None:
    section, parts = REFUSED[line]
    words = shlex.split(line)
    check(ask, words, parts)
    if section == "usage" and "--json" not in line and len(words) > 1 and words[-1] not in ("--out", "--batch"):
        check(ask, [*words, "--json"], parts)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("inspect {}", ["xxx", "opbyte list models"]),
        ("validate configs {}", ["xxx", "too long"]),
        ("validate schedules {}", ["xxx", "too long"]),
        ("sweep {}", ["xxx", "..."]),
        (f"{R} --expert-dispatch {{}}", ["xxx", "..."]),
    ],
)
def test_names_that_are_too_long_are_shortened(ask: Ask, line: str, parts: list[str]) -> None:
    check(ask, line.format("x" * 5000).split(), parts)


def test_a_number_of_too_many_digits_is_none(ask: Ask) -> None:
    check(ask, [*R.split(), "--batch", "9" * 5000], ["--batch", "whole number"])


@pytest.mark.parametrize("line", ["--help", "-h", "list --help", "inspect -h", "roofline --help",
                                  "simulate --help", "--version"])  # fmt: skip
def test_help_needs_nothing_else(ask: Ask, line: str) -> None:
    answer = ask(*line.split())
    assert answer.code == 0
    assert answer.err == ""
    assert "opbyte" in answer.out
