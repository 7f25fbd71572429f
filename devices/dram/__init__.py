"""Command-level DRAM model: banks, timings, refresh, queues and near-memory commands, clock by clock."""
