"""Output of commands: print a result, write its files, show progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ...workloads.errors import InputError, visible

if TYPE_CHECKING:
    from ...simulator.results.progress import Progress
    from ..parallel import OnProgress
    from ..show.kept import Kept
    from ..show.output import OutputFolder
    from ..show.result import Result

R = TypeVar("R", bound="Result")
PATIENCE_S, MINUTE_S = 1.5, 60.0
"""Seconds before a progress bar appears, and interval of progress lines if stderr is not a terminal [s]."""


def answer(
    make: Callable[..., R],
    out: str | None,
    as_json: bool,
    *,
    counted: str = "",
    write: Callable[[R, OutputFolder], object] | None = None,
    kept: Kept | None = None,
    waits: bool = True,
) -> R:
    """Compute a result, write its files, and print it.

    The folder is opened before the work, and gets all files or none. Stored parts are deleted after the output.

    Parameters
    ----------
    counted : str
        What the work counts; `make` is then told of it by its keyword ``progress``.
    waits : bool
        Whether a bar shows that work continues if nothing is counted; not with other output.
    write : callable, optional
        Writes the files of the result, instead of `report.files.write_files`; the report is written before.
    """
    with folder(out) as files:
        if counted:
            with counting(counted) as progress:
                result = make(progress=progress)
        else:
            with waiting() if waits else nullcontext():
                result = make()
        if files:
            from ..report.files import write_files, write_report

            write_report(result, files)
            (write or write_files)(result, files)
    for text in result.remarks():
        print(f"opbyte: warning: {visible(text)}", file=sys.stderr)
    show(result, as_json)
    if kept is not None:
        kept.forget()
    return result


def split(given: Any, *names: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the values of some options, and all other options by name."""
    others = dict(vars(given))
    return [others.pop(name) for name in names], others


def told(result: Result) -> None:
    """End with exit code 1 if a check of the result failed."""
    if not result.passed:
        raise typer.Exit(1)


def resumed(command: str, fresh: bool) -> Kept:
    """Return the stored parts of a long command; print a note on stderr if an earlier call left parts."""
    from ..show.kept import kept_by

    parts = kept_by(command)
    if fresh:
        parts.forget()
    elif finished := parts.count():
        text = f"continues from {finished:,} finished parts of an earlier call; --fresh starts again"
        print(f"opbyte: note: {text}", file=sys.stderr)
    return parts


def folder(out: str | None, option: str = "--out") -> AbstractContextManager[OutputFolder | None]:
    """Open the folder of an option, before the work."""
    if out is None:
        return nullcontext()
    from ..show.output import OutputFolder

    return OutputFolder(out, option)


@contextmanager
def side_file(path: str | None, option: str) -> Iterator[Callable[..., None]]:
    """Return a writer of the file that an option names, ``write("text", make)``; its folder is opened before the work."""
    if path is None:
        yield lambda kind, make, *how: None
        return
    if os.path.isdir(path) or not os.path.basename(path):
        raise InputError(f"{option} {path!r}", "is a folder; name a file in it")
    with folder(os.path.dirname(path) or ".", option) as files:
        yield lambda kind, make, *how: getattr(files, kind)(os.path.basename(path), make(), *how)


def show(result: Result, as_json: bool) -> None:
    """Print a result: one JSON object, or its blocks with empty lines between them."""
    if as_json:
        from ..show.record import made_by

        print_json({**result.to_dict(), "made_by": made_by()})
        return
    from ..show.console import print_table, print_text

    before: object = ""
    for i, block in enumerate(result.blocks()):
        if i and not (isinstance(block, str) and isinstance(before, str)):
            print()
        print_text(block) if isinstance(block, str) else print_table(block)
        before = block


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    from ..show.output import to_json

    print(to_json(data))


@contextmanager
def progress() -> Iterator[Progress | None]:
    """Show a progress bar on stderr if it is a terminal: requests, their rate and the remaining time."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar(False) as bar:
        task = bar.add_task("starting (the first run compiles)", total=None)

        def update(done: int, known: int, clock: float) -> None:
            text = f"{done:,} of {known:,} requests, {clock:,.0f} s simulated"
            bar.update(task, description=text, completed=done, total=known)

        yield update


@contextmanager
def counting(what: str) -> Iterator[OnProgress | None]:
    """Show counted progress as a bar with the remaining time, or once a minute if stderr is not a terminal."""
    if not sys.stderr.isatty():
        with _lines(what) as progress:
            yield progress
        return
    with _bar(True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def waiting() -> Iterator[None]:
    """Show a moving bar on a terminal if work that is not counted takes longer than `PATIENCE_S`."""
    if not sys.stderr.isatty():
        yield
        return

    def watch(done: Event) -> None:
        if not done.wait(PATIENCE_S):
            with _bar(False) as bar:
                bar.add_task("working", total=None)
                done.wait()

    with _while_it_runs(watch):
        yield


@contextmanager
def _lines(what: str) -> Iterator[Callable[[int, int], None]]:
    """Print one line per minute to stderr, for logs: progress and the estimated remaining time."""
    start, count = time.monotonic(), [0, 0]

    def tell(done: int, total: int) -> None:
        count[:] = done, total

    def watch(over: Event) -> None:
        while not over.wait(MINUTE_S):
            spent, (done, total) = time.monotonic() - start, count
            left = f", some {spent / done * (total - done):,.0f} s left" if done else ""
            of = f"{done:,} of {total:,} {what}" if total else what
            print(f"opbyte: {of} after {spent:,.0f} s{left}", file=sys.stderr, flush=True)

    with _while_it_runs(watch):
        yield tell


@contextmanager
def _while_it_runs(watch: Callable[[Event], None]) -> Iterator[None]:
    """Run `watch` in a thread during the block; set its event at the end of the block."""
    done = Event()
    thread = Thread(target=watch, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bar(counts: bool) -> Any:
    """Return a progress bar with the elapsed time and the remaining time, and with counts and rate if `counts`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Column with the rate, in items per second or seconds per item."""

        def render(self, task: Task) -> Text:
            return Text(paced(task.speed or 0.0))

    class Left(TimeRemainingColumn):
        """Column with the remaining time, empty while it is unknown."""

        def render(self, task: Task) -> Text:
            known = task.total is not None and task.speed
            return Text.assemble(super().render(task), " left") if known else Text("")

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=16)]
    columns += [MofNCompleteColumn()] if counts else []
    columns += [TimeElapsedColumn(), Rate(), Left(compact=True)]
    return Progress(*columns, console=Console(stderr=True), transient=True)


def paced(per_s: float) -> str:
    """Return a rate as text.

    >>> paced(12.34), paced(0.25), paced(0.0)
    ('12.3/s', '4.0 s each', '')
    """
    if per_s <= 0:
        return ""
    return f"{per_s:,.1f}/s" if per_s >= 1 else f"{1 / per_s:,.1f} s each"
