"""Area, power and cost of chips, estimated from their parts, with intervals."""
