"""The Typer application: commands, their panels in ``--help``, and recording of the given options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import typer.core
from typer.models import CommandInfo, TyperInfo

from ...simulator.registry import PARTS
from ...workloads.errors import InputError
from ...workloads.yamlfile import read_yaml

F = TypeVar("F", bound=Callable[..., Any])
LISTED = read_yaml(Path(__file__).parent / "commands.yaml")
COMMANDS: dict[str, tuple[str, ...]] = {panel: tuple(entries) for panel, entries in LISTED["panels"].items()}
"""Commands of each panel, in the order of the help page."""
OTHERS = "Of plug-ins"
"""Title of the panel with commands of plug-ins."""
OPTIONS = {
    "workload": "Requests", "serving": "Engine", "deployment": "Model on devices", "fleet": "Fleet and failures",
    **{name: part.panel for name, part in PARTS.items() if part.scope == "run"},
}  # fmt: skip
"""Part of a scenario -> panel of its options; the others are the command's own."""
ARGUMENTS, OWN, OUTPUT = "Arguments", "Options", "Output"
"""Panels of arguments, of a command's own options and of what every command has."""


class NotedCommand(typer.core.TyperCommand):
    """A command that records its options, because its result contains them."""

    def invoke(self, ctx: Any) -> Any:
        from ..show.record import parsed

        with parsed(ctx.params):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of arguments, then of the command's specific options, then of the other options by panel."""
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
        """Write the list of commands by panel, the panels for beginners first."""
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


class App(typer.Typer):
    """An application with commands of the class `NotedCommand`."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        """Register a command as `typer.Typer.command` does."""
        return super().command(name, cls=settings.pop("cls", NotedCommand), **settings)


app = App(
    name="opbyte",
    help="Simulate LLM and mixture-of-experts inference on xPU, PIM and FPGA devices.",
    cls=Grouped,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Options of all commands."""
    if version:
        from ..._version import __version__

        print(f"opbyte {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        known = ", ".join(sorted({name.partition(" ")[0] for name in names()}))
        raise InputError("opbyte", f"needs a command: {known}; see opbyte --help")


def with_options_of(name: str) -> App:
    """Return the application with the options of only one command or group; all signatures together take 100 ms."""
    partial = copy(app)
    partial.registered_commands = [c if c.name == name else _listed(c) for c in app.registered_commands]
    partial.registered_groups = [g if g.name == name else _emptied(g) for g in app.registered_groups]
    return partial


def _listed(command: CommandInfo) -> CommandInfo:
    """Return a command with only its name and help, for a list of commands."""
    short = copy(command)

    def callback() -> None: ...

    callback.__doc__ = command.callback.__doc__ if command.callback else None
    short.callback = callback
    return short


def _emptied(group: TyperInfo) -> TyperInfo:
    short = copy(group)
    if group.typer_instance:
        short.typer_instance = copy(group.typer_instance)
        short.typer_instance.registered_commands = [_listed(c) for c in group.typer_instance.registered_commands]
    return short


def names() -> list[str]:
    """Return all commands; commands of groups with the group's name before them."""
    names = [command.name or "" for command in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands if group.typer_instance else []
        names += [f"{group.name} {command.name}" for command in inner]
    return names
