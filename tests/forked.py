"""An installed ``opbyte`` that starts in milliseconds: one process has imported it, and forks for every command.

``python -I forked.py SOCKET`` is that process. `shim` is what stands on PATH in place of the command: it hands
over its arguments, folder, environment and streams, and ends with the exit code. What a command does is the
installed package's own `main`; only its start is not. Commands that stay are begun as they are installed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

SHIM = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] in (["serve"], ["record"]):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({path!r})
told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(told).to_bytes(8, "big")], [0, 1, 2])
link.sendall(told)
code = link.recv(1)
sys.exit(code[0] if code else 1)
"""
WARM = (
    "simulate llama-3-8b --system h100-x1 --rate 2 --requests 4 --input-len 16 --output-len 4 --json",
    "roofline mixtral-8x7b --system h100-x4 --json",
    "list models --json",
)
"""Run before the first fork, so that what they import and load is there."""


@contextmanager
def forking(folder: Path, bin: Path, env: dict[str, str]) -> Iterator[Path]:
    """A folder for PATH whose ``opbyte`` is that of `bin`."""
    path, shim = folder / "socket", folder / "bin" / "opbyte"
    shim.parent.mkdir()
    text = SHIM.format(python=bin / "python", real=str(bin / "opbyte"), path=str(path))
    shim.write_text(text, encoding="utf-8")
    shim.chmod(0o755)
    line = [str(bin / "python"), "-I", __file__, str(path)]
    server = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield shim.parent
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def serve(path: str) -> None:
    """Fork for every command that comes; only the children return."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        for line in WARM:
            run(line.split())
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        link, _ = listener.accept()
        if os.fork():
            link.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, streams, _, _ = socket.recv_fds(link, 8, 3)
        told = b""
        while len(told) < int.from_bytes(size, "big"):
            told += link.recv(1 << 16)
        arguments, folder, env = json.loads(told)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        code = run(arguments)
        for stream_ in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream_.flush()
        link.sendall(bytes([code]))
        os._exit(code)


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    from opbyte.analysis.cli import main

    sys.argv = ["opbyte", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
