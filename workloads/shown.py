"""How descriptions show themselves: as tables of a notebook, and in short."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


class Sources(dict[str, str]):
    """Key path -> source of that number; hundreds of them, so `repr` only counts."""

    def __repr__(self) -> str:
        return f"<Sources of {len(self)} numbers>"


def table_of(tree: Mapping[str, Any]) -> str:
    """Plain data as an HTML table of key paths and values, everything escaped."""
    rows: list[str] = []

    def add(node: Any, path: str) -> None:
        if isinstance(node, Mapping):
            for key, below in node.items():
                add(below, f"{path}.{key}" if path else str(key))
        elif node not in ("", (), []):
            value = ", ".join(map(str, node)) if isinstance(node, (tuple, list)) else f"{node}"
            rows.append(f"<tr><td>{escape(path)}</td><td>{escape(value)}</td></tr>")

    add(tree, "")
    return f"<table><tbody>{''.join(rows)}</tbody></table>"
