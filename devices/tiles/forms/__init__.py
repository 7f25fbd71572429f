"""Kernel forms, one module each; they register themselves."""
