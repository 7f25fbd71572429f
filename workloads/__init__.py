"""What must be computed: models, ops, routing and request traces."""
