"""Kernel forms, one module each; importing a module registers its forms."""
