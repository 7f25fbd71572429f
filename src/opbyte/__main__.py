"""``python -m opbyte`` is the command ``opbyte``."""

import atexit
import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line; Ctrl-C while it still loads ends the process without a traceback.

    The process ends without the interpreter's finalization, which takes seconds if the machine is busy.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # neither ignored, as under nohup, nor of another program
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from opbyte.analysis.cli import main as run

    signal.signal(signal.SIGINT, handler)
    try:
        run()
    except SystemExit as ended:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


if __name__ == "__main__":
    main()
