"""Documentation of input files: their keys, JSON schemas for editors, and templates."""
