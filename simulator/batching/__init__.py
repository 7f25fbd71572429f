"""What a step works on: policies, plans, the KV cache, the inner loop."""
