"""Models of collectives: algorithms on topologies of several levels."""
