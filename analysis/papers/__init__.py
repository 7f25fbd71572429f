"""Papers, each an experiment that compares its printed numbers with simulated ones.

A package as anybody's: an entry point names it, and it imports `opbyte.extend` and nothing else of the library.
"""

PAPERS = __name__
"""This package, which is used to find figures by name."""
