"""The serving engine: plans of steps, the KV cache, the compiled loop of steps, and the hook points of parts."""
