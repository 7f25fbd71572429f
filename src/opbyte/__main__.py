"""``python -m opbyte`` is the command ``opbyte``."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while it still loads ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # neither ignored, as under nohup, nor of another program
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from opbyte.analysis.cli import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
