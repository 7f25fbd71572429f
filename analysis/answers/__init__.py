"""Questions about a model on a device, and their results."""
