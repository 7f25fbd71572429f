"""The engine: what its next step works on, the KV cache, the loop of steps, and the hook points of parts."""
