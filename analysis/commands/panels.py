"""Panels of ``--help``: options by what they belong to, commands in the order of use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer.core

from ...simulator.registry import PARTS

COMMANDS = {
    "Ask": ("simulate", "roofline", "compare", "capacity", "plan", "benchmark", "design", "sweep", "pareto"),
    "Look closer": ("inspect", "layout", "dram", "tune", "train", "placement", "afd", "frames", "search"),
    "Check": ("validate", "kernels", "reproduce", "measure", "calibrate"),
    "Live servers": ("serve", "record"),
    "Catalog and files": ("list", "show", "init"),
}
"""Panel -> its commands, in the order in which they are met."""
OTHERS = "Of plug-ins"
"""Panel of commands that are not named above."""
OPTIONS = {
    "workload": "Requests", "serving": "Engine", "deployment": "Model on devices", "fleet": "Fleet and failures",
    **{name: part.panel for name, part in PARTS.items() if part.scope == "run"},
}  # fmt: skip
"""Part of a scenario -> panel of its options; the others are the command's own."""
ARGUMENTS, OWN, OUTPUT = "Arguments", "Options", "Output"
"""Panels of arguments, of a command's own options and of what every command has."""


class NotedCommand(typer.core.TyperCommand):
    """A command whose options are recorded, so that its result contains them."""

    def invoke(self, ctx: Any) -> Any:
        from ..show.record import parsed

        with parsed(ctx.params):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, the command's own options, then panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OWN: []}
        panels |= {title: [] for title in (*OPTIONS.values(), OUTPUT)}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None:
                panels[_panel(param)].append(row)
        _write(formatter, panels.items())


def _panel(param: Any) -> str:
    if param.param_type_name == "argument":
        return ARGUMENTS
    return OUTPUT if param.name == "help" else getattr(param, "rich_help_panel", None) or OWN


class Grouped(typer.core.TyperGroup):
    """An application whose commands are listed by panel."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands that a reader meets first, first."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        shown = {name: command for name, command in commands if command is not None}
        limit = formatter.width - 6 - max(map(len, shown))
        panels = [(title, [n for n in names if n in shown]) for title, names in COMMANDS.items()]
        known = {name for names in COMMANDS.values() for name in names}
        panels.append((OTHERS, [name for name in shown if name not in known]))
        rows = [(title, [(n.ljust(9), shown[n].get_short_help_str(limit)) for n in names]) for title, names in panels]
        _write(formatter, rows)


def _write(formatter: Any, panels: Iterable[tuple[str, list[tuple[str, str]]]]) -> None:
    for title, rows in panels:
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
