"""Results and their output: tables, plots and the command line."""
