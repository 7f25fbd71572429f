"""Results of a run: timestamps of requests, rates, the steady window."""
