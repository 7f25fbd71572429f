"""Questions and answers: tables, plots and the command line."""
