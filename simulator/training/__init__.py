"""A training step: layouts, memory, pipeline schedules and time."""
