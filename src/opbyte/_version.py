"""The version, in a module that imports nothing: provenance and the command line read it."""

__version__ = "0.3.0"
