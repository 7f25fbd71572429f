"""Output of results: text, tables, output folders, provenance."""
