"""Does a command end when it is told to, without a terminal, and leave nothing half written?

A process that ends for a signal says so by its exit code and its line. What is promised is two
seconds; no time is asserted here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from opbyte.analysis.show import interrupt
from opbyte.analysis.show.interrupt import Ended, endable, uninterrupted
from opbyte.analysis.show.output import OutputFolder
from opbyte.workloads.errors import InputError

from ..processes import PATIENCE_S, Start, busy, descendants, ends, environment, runs, usual_signals

COMMAND = [sys.executable, "-m", "opbyte"]
LONG = ["simulate", "deepseek-v3", "--system", "h200-x8", "--closed-loop", "512", "--requests",
        "60000", "--input-len", "1000", "--output-len", "1000"]  # fmt: skip
ENV = environment()


Begin = Callable[[list[str], Path], "subprocess.Popen[str]"]


@pytest.fixture
def begin(start: Start) -> Begin:
    def run(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
        return start([*COMMAND, *arguments], cwd=folder, env=ENV, text=True,
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    return run


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the loop first, so that signals meet a running simulation."""
    short = [*LONG[:4], "--closed-loop", "2", "--requests", "4", "--input-len", "8", "--output-len", "2"]
    subprocess.run([*COMMAND, *short], cwd=tmp_path_factory.mktemp("short"), env=ENV, check=True, capture_output=True)


PAPER = ["reproduce", "duplex", "--fresh"]


def test_whoever_runs_the_tests_what_they_start_takes_signals() -> None:
    """A background job, `nohup` or a CI server may have them ignored, and children would inherit that."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, signal.SIG_IGN) for n in numbers}
    try:
        usual_signals()
        for n in numbers:
            line = [sys.executable, "-c", f"import os, time; os.kill(os.getpid(), {int(n)}); time.sleep(60)"]
            assert subprocess.run(line, check=False, stderr=subprocess.DEVNULL).returncode in (-n, 130)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


@pytest.mark.parametrize(
    ("command", "name", "code"), [(LONG, "SIGINT", 130), (LONG, "SIGTERM", 143), (PAPER, "SIGTERM", 143)]
)
def test_a_signal_ends_a_long_run_in_a_pipe(
    tmp_path: Path, begin: Begin, command: list[str], name: str, code: int
) -> None:
    process = begin([*command, "--out", "run"], tmp_path)
    busy(process, 3.0)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, err
    assert (out, err) == ("", f"opbyte: error: interrupted by {name}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_workers_too(tmp_path: Path, begin: Begin) -> None:
    (tmp_path / "s.yaml").write_text(
        "base: {model: deepseek-v3, system: h200-x8, closed_loop: 512, requests: 60000, "
        "input_len: 1000, output_len: 1000}\naxes: {seed: [1, 2]}\n"
    )
    process = begin(["sweep", "s.yaml", "--workers", "2"], tmp_path)
    busy(process, 7.0)
    workers = descendants(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert err == "opbyte: error: interrupted by SIGINT\n"
    assert all(ends(worker) for worker in workers)
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


BUSY = {
    "waits": "    time.sleep(seconds)\n",
    "holds the interpreter": "    ctypes.PyDLL(None).sleep(seconds)\n",
    "is stopped": "    if seconds: os.kill(os.getpid(), signal.SIGSTOP)\n",
}
"""What a worker may be about when its parent is killed; the last two run no Python code."""


@pytest.mark.parametrize("about", BUSY)
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path, start: Start, about: str) -> None:
    if about != "waits" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends such a process with its parent")
    script = tmp_path / "parent.py"
    script.write_text(
        "import ctypes, os, signal, time\n"
        "from opbyte.analysis.parallel.local import Crew\n"
        "def task(seconds):\n"
        f"    if seconds: open({str(tmp_path / 'begun')!r}, 'w').close()\n"
        f"{BUSY[about]}"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    with Crew(1, isolated=True) as crew:\n"
        "        for _, pid in crew.run(task, [0, 10 * 600]):\n"
        "            print(pid, flush=True)\n"
    )
    parent = start([sys.executable, script], env=ENV, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert runs(worker)
    until_begun(tmp_path / "begun")
    parent.kill()
    parent.wait()
    parent.stdout.close()  # the worker holds its other end: do not wait for it to be done
    assert ends(worker)


def test_an_error_that_a_signal_causes_is_reported_as_the_signal() -> None:
    """An extension that is being imported when the signal comes fails with an `ImportError`."""

    def load() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Ended as error:
            raise ImportError("initialization failed") from error

    with pytest.raises(Ended, match="SIGTERM"), endable():
        load()


def test_a_signal_in_a_finalizer_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    with endable():
        Freed()
    assert printed == []
    assert sys.unraisablehook == printed.append


def test_ctrl_c_while_the_command_loads_shows_no_traceback(start: Start) -> None:
    script = (
        "import os, signal, sys\n"
        "from opbyte.__main__ import main\n"
        "class Cut:\n"
        "    def find_spec(name, *_): os.kill(os.getpid(), signal.SIGINT) if name == 'typer' else None\n"
        "sys.meta_path.insert(0, Cut)\n"
        "main()\n"
    )
    ended = start([sys.executable, "-c", script], env=ENV, stderr=subprocess.PIPE, text=True)
    assert (ended.communicate()[1], ended.returncode) == ("", -signal.SIGINT)


def test_a_command_ends_without_the_interpreters_finalization(start: Start) -> None:
    """That frees compiled code, which takes seconds on a busy machine; what is registered for an end still runs."""
    script = (
        "import atexit, os, sys\n"
        "from opbyte.__main__ import main\n"
        "class Kept:\n"
        "    def __del__(self): os.write(1, b'finalized')\n"
        "kept = Kept()\n"
        "atexit.register(print, 'registered')\n"
        "sys.argv = ['opbyte', 'list', 'nothing']\n"
        "main()\n"
    )
    ended = start([sys.executable, "-c", script], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (ended.communicate()[0], ended.returncode) == ("registered\n", 2)


def until_begun(mark: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert mark.exists()


def test_a_link_to_nothing_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="is a link to what does not exist"):
        OutputFolder(tmp_path / "link" / "run")
    assert not (tmp_path / "gone").exists()


def test_what_compiled_code_holds_up_is_ended_from_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A main thread that never comes back to Python: its files go, its exit code stays."""
    ended: list[int] = []
    left = threading.Event()
    folder = OutputFolder(tmp_path / "out")

    def leave(code: int) -> None:
        ended.append(code)
        left.set()
        raise SystemExit  # of the watching thread alone

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(interrupt, "GRACE_S", 0.05)
    reader, writer = os.pipe()

    def watch() -> None:
        with suppress(SystemExit):
            interrupt._watch(reader, [signal.SIGTERM])

    with folder as files:
        files.text("a.txt", "half")
        assert any((tmp_path / "out").iterdir())
        os.write(writer, bytes([signal.SIGTERM]))
        threading.Thread(target=watch).start()
        assert left.wait(PATIENCE_S)
        assert not (tmp_path / "out").exists()
    os.close(writer)
    assert ended == [143]


def test_files_are_published_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if publishing takes longer than the watching thread waits."""
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.4)
        replace(source, target)

    def write() -> None:
        with OutputFolder(tmp_path) as files:
            files.text("a.txt", "a")
            files.text("b.txt", "b")

    monkeypatch.setattr(os, "replace", interrupted)
    monkeypatch.setattr(os, "_exit", id)
    monkeypatch.setattr(interrupt, "GRACE_S", 0.5)
    with pytest.raises(Ended), endable():
        write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_a_kill_between_renames_leaves_no_old_summary(tmp_path: Path) -> None:
    names = ["a.csv", "b.csv", "answer.json"]
    for count in (3, 1):
        with suppress(InputError), OutputFolder(tmp_path) as files:
            for name in names:
                files.text(name, str(count))
            for path, _ in files._files[count:]:
                path.unlink()  # so that publishing ends here
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "1"}


def test_two_runs_are_never_mixed_in_a_folder(tmp_path: Path) -> None:
    line = [*COMMAND, "list", "engines", "--out", str(tmp_path)]
    with OutputFolder(tmp_path) as files, OutputFolder(tmp_path, "--frontier") as side:
        files.text("a.txt", "a")
        side.text("b.txt", "b")  # of the same command
        second = subprocess.run(line, env=ENV, capture_output=True, text=True, check=False)
    reason = f"opbyte: error: {tmp_path}: is in use by another command; wait for it, or choose another --out\n"
    assert (second.returncode, second.stderr) == (2, reason)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    with OutputFolder(tmp_path) as files:
        files.text("a.txt", "again")


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in interrupt.SIGNALS]
    with pytest.raises(Ended) as caught, endable():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in interrupt.SIGNALS] == before


def test_leftovers_of_killed_runs_go_with_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    with OutputFolder(tmp_path) as files:
        files.text("a.txt", "a")
        (own,) = tmp_path.iterdir()
        stale = own.with_name(own.name.replace(f".{os.getpid()}-", f".{gone.pid}-"))
        foreign = own.with_name(f".a.txt.{gone.pid}-another.part")
        for path in (stale, foreign, tmp_path / ".hidden"):
            path.write_text("")
        files.text("b.txt", "b")
        assert own.exists()
        assert not stale.exists()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [foreign.name, ".hidden", "a.txt", "b.txt"]
