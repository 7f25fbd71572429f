"""How an answer is shown: text, tables, output folders, provenance."""
