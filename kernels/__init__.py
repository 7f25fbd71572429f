"""Real kernels, their references and the measuring harness."""
