"""Cost models that read measured kernel tables."""
