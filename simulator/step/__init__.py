"""What one step costs: op by op, and as arrays."""
