"""Live servers: recording of a real one, and a simulated deployment with the same API."""
