"""One question about a model on a device, and its answer."""
