"""What a run leaves: timestamps of requests, rates, the steady window."""
