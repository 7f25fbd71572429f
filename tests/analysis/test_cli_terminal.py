"""Does the installed command behave in a terminal and in pipes, and start quickly?"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ..processes import environment

pty = pytest.importorskip("pty", reason="no pseudo-terminals here")

COMMAND = [sys.executable, "-m", "opbyte"]
SMALL = ["simulate", "llama-3-8b", "--system", "h100-x1", "--rate", "9", "--requests", "20"]
ONE_BY_ONE = [sys.executable, "-c", """
import sys
from opbyte.analysis.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        assert end.code == 0, line
heavy = [name for name in ("numba", "pandas", "matplotlib", "scipy", "simpy") if name in sys.modules]
assert not heavy, heavy
"""]  # fmt: skip
"""Commands in one process: none of them loads a heavy package."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(TERM="xterm")


def in_terminal(command: list[str], env: dict[str, str], columns: int) -> tuple[int, str]:
    """Run in a pseudo-terminal of a width; both streams together."""
    import fcntl
    import struct
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other,
                               env={k: v for k, v in env.items() if k != "COLUMNS"})  # fmt: skip
    os.close(other)
    chunks = []
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not data:
            break
        chunks.append(data)
    os.close(main)
    return process.wait(), b"".join(chunks).decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(env: dict[str, str], columns: int) -> None:
    step = "roofline mixtral-8x7b --system duplex-x4 --prefill 100"
    code, text = in_terminal([*ONE_BY_ONE, "list devices", "list models", "inspect deepseek-v3", step], env, columns)
    assert code == 0, text
    assert max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text


def test_a_simulation_in_a_terminal_shows_progress(env: dict[str, str]) -> None:
    code, text = in_terminal([*COMMAND, *SMALL], env, 80)
    assert code == 0, text
    assert "20 of 20 requests" in text
    assert "Traceback" not in text
    assert "output tokens per second" in text
    code, text = in_terminal([*COMMAND, *SMALL[:-1], "0"], env, 80)
    assert code == 2
    assert "opbyte: error: --requests" in text.splitlines()[-1]


def test_json_on_a_pipe_is_alone_there(env: dict[str, str]) -> None:
    done = subprocess.run([*COMMAND, *SMALL, "--json"], env=env, capture_output=True, check=True)
    assert json.loads(done.stdout)["requests"] == 20
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_output_that_goes_nowhere(env: dict[str, str]) -> None:
    if Path("/dev/full").exists():
        for line in (["list", "models"], ["list", "models", "--json"], ["show", "h100"], ["init", "host"], ["--help"]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([*COMMAND, *line], env=env, stdout=full,
                                      stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
            assert done.returncode == 2
            assert done.stderr.startswith("opbyte: error: standard output: cannot be written")
            assert done.stderr.count("\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "list", "models"], env=env, stdout=writer,
                          stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_command_needs_no_standard_error(env: dict[str, str]) -> None:
    line = f"exec {shlex.join([*COMMAND, *SMALL, '--json'])} 2>&-"
    done = subprocess.run(["sh", "-c", line], env=env, stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout)["requests"] == 20


def test_light_commands_leave_heavy_packages_alone(env: dict[str, str]) -> None:
    lines = ["--help", "list models", "list systems", "inspect mixtral-8x7b"]
    lines.append("roofline mixtral-8x7b --system duplex-x4 --json")
    done = subprocess.run([*ONE_BY_ONE, *lines], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def best_of(arguments: list[str], env: dict[str, str]) -> float:
    """CPU time, since others on the machine decide how long it takes by the clock."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], env=env, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_start_up_is_cheap(env: dict[str, str]) -> None:
    bare = best_of(["-c", "pass"], env)
    assert best_of(["-c", "import opbyte"], env) - bare < 0.5
    base = best_of(["-c", "import typer, rich"], env)
    assert best_of(["-m", "opbyte", "--help"], env) - base < 0.4
