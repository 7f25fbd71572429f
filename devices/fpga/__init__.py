"""FPGA boards and the accelerators built on them: descriptions and the resource check."""
