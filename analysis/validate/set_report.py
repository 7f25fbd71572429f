"""The page of shared kernel parameters (docs/frameworks.md), from their entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...devices.calibrated.family import families
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, SetEntry


def intro(page: str) -> str:
    """What stands above the tables of a page."""
    return (Path(__file__).parent / "pages" / f"{page}.md").read_text(encoding="utf-8")


def set_report(sets: Mapping[str, Mapping[str, Mapping[str, SetEntry]]]) -> str:
    """The page as Markdown."""
    parts = [intro("kernel-sets")]
    for name, family in families().items():
        entries_held = {key: found[name] for key, found in sets.items() if name in found}
        if not entries_held:
            continue
        columns = [TYPICAL, *LABELS] if any(len(e) > 1 for e in entries_held.values()) else [TYPICAL]
        parts.append(f"## {family.title} (`{name}`)\n")
        parts.append("| set | " + " | ".join(columns) + " |")
        parts.append("|---" * (len(columns) + 1) + "|")
        parts += [
            f"| {key} | " + " | ".join(_cell(entries.get(c)) for c in columns) + " |"
            for key, entries in sorted(entries_held.items())
        ]
        parts.append("")
    return "\n".join(parts)


def _cell(entry: SetEntry | None) -> str:
    if entry is None:
        return "-"
    if entry.errors is None:
        return entry.basis
    median, tail, bias = (100.0 * e for e in entry.errors)
    return f"{entry.basis}, {entry.rows}: {median:.1f} / {tail:.0f} / {bias:+.1f} %"
