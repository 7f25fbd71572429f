"""``python -m opbyte`` is the command ``opbyte``."""

from opbyte.analysis.cli import main

if __name__ == "__main__":
    main()
