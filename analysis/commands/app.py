"""The application that the command modules add themselves to."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, TypeVar

import typer
from typer.models import CommandInfo, TyperInfo

from ...workloads.errors import InputError
from .panels import Grouped, NotedCommand

F = TypeVar("F", bound=Callable[..., Any])


class App(typer.Typer):
    """An application whose commands are `NotedCommand`."""

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
    """The application in which only one command, or one group, has options: the signatures of all take 100 ms."""
    partial = copy(app)
    partial.registered_commands = [c if c.name == name else _listed(c) for c in app.registered_commands]
    partial.registered_groups = [g if g.name == name else _emptied(g) for g in app.registered_groups]
    return partial


def _listed(command: CommandInfo) -> CommandInfo:
    """A command as a list of commands shows it: its name and help."""
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
