"""CPU and GPU kernels, their references, and the measuring harness."""
