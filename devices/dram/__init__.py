"""Command-level DRAM: banks, timings, refresh, queues and near-memory commands, clock by clock."""
