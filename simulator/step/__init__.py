"""The cost of one step: op by op (`explicit`), and by arrays in compiled code."""
