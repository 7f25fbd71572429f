"""The reference page, written from the code: ``python -m opbyte.analysis.manual``."""
