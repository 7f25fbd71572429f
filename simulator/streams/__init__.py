"""Streams: tasks on resources that work at the same time, and the ways to cut work for them."""
